"""Random numbers that depend on nothing but what they are for."""

from __future__ import annotations

import hashlib


def seed_of(seed: int, what: str, number: int) -> int:
    """A seed of its own for everything that is random, the same in every process."""
    digest = hashlib.sha256(f"{seed}:{what}:{number}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
