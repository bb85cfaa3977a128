"""Adapters made of adapters: merged, made smaller."""
