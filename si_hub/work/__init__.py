"""Unfinished work kept, processes that share it, and what tells one run's work from another's."""
