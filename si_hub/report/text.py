"""Words and numbers for the terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from si_hub.foreign import make_safe


def size_text(count: int) -> str:
    """Bytes in the unit people would use: ``812 B``, ``23.1 kB``, ``871.4 MB``, ``6.9 GB`` (powers of 1000)."""
    if count < 1000:
        return f"{count} B"
    size = count / 1000
    for unit in ("kB", "MB"):
        if size < 1000:
            return f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


_UNITS = {"": 1, "b": 1, "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9,
          "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}  # fmt: skip


def size_bytes(text: str) -> int:
    """Bytes of a size as people write it, ``40MB`` or ``1.5 GiB``; the inverse of `size_text`.

    Raises:
        ValueError: not a positive number with a unit.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text, re.ASCII)
    if match is None or match[2].lower() not in _UNITS or not float(match[1]):
        raise ValueError(f"no size: {text!r}")
    return round(float(match[1]) * _UNITS[match[2].lower()])


def tally(counts: Mapping[Any, int]) -> str:
    """``4`` where there is one value, ``4 × 30, 8 × 2`` where there are several."""
    if len(counts) == 1:
        return str(next(iter(counts)))
    return ", ".join(f"{value} × {count}" for value, count in counts.items())


def reasons(names: Mapping[str, str], shown: int = 3) -> list[str]:
    """A line for every reason that names have, with how many have it and the first of them."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in names.items():
        by_reason.setdefault(reason, []).append(name)
    return [_reason_text(reason, held, shown) for reason, held in by_reason.items()]


def _reason_text(reason: str, names: Sequence[str], shown: int) -> str:
    first = ", ".join(make_safe(name, keep_end=True) for name in names[:shown])
    return f"{len(names)} ({first}{', ...' if len(names) > shown else ''}): {make_safe(reason, 400)}"
