"""Adapters trained from pictures: `si-hub train`."""
