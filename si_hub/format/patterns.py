"""Module patterns: how the document says that some layers differ from the component's default.

A pattern is segments joined by dots. A literal segment matches itself, ``*`` any one segment, ``**``, at most once in a
pattern, any number of segments, none included. Nothing else is special, and a pattern always matches whole paths.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from heapq import heapify, heappop, heappush
from pathlib import Path

from si_hub.errors import DocumentError

#: Patterns times layers of one table; the most irregular adapter for SDXL has half a million.
WORK_LIMIT = 1_000_000

_WILD = {"*": r"[^.]+\.", "**": r"(?:[^.]+\.)*"}


def matches_pattern(pattern: str, module: str) -> bool:
    """Whether ``pattern`` matches the whole path ``module``."""
    return _matcher(pattern)(module + ".") is not None


@lru_cache(maxsize=4096)
def _matcher(pattern: str) -> Callable[[str], object]:
    """A test of a path with a dot behind it. One ``**`` leaves a regular expression nothing to explode on."""
    segments = pattern.split(".")
    if segments.count("**") > 1:
        raise DocumentError("a pattern with more than one **", key=pattern)
    return re.compile("".join(_WILD.get(segment, re.escape(segment) + r"\.") for segment in segments)).fullmatch


def resolve_patterns(
    exceptions: Mapping[str, Iterable[str]], modules: Iterable[str], file: Path | None = None, key: str | None = None
) -> Iterator[tuple[str, str, str]]:
    """(module, value, pattern) for every match of a table value → patterns; a module may come up more than once.

    Raises:
        DocumentError: more patterns for more layers than any real adapter has.
    """
    listed = list(modules)
    pairs = [(value, pattern) for value, patterns in exceptions.items() for pattern in patterns]
    if len(pairs) * len(listed) > WORK_LIMIT:
        raise DocumentError(
            "too many patterns", file=file, key=key, expected=f"at most {WORK_LIMIT // len(listed)}", found=len(pairs)
        )
    places = _Places(listed, [pattern for _, pattern in pairs])
    for value, pattern in pairs:
        yield from ((listed[index], value, pattern) for index in places.find(pattern))


class _Places:
    """Which of many paths have which segment where: as bits of integers, one for each path.

    Thousands of patterns cost a few steps each, however long the paths are and however much of them matches.
    """

    def __init__(self, paths: Sequence[str], patterns: Iterable[str]) -> None:
        self.whole = len(paths)
        self.wanted = {pattern: _literals(pattern) for pattern in patterns}
        rows: dict[tuple[int, str], list[int]] = {place: [] for held in self.wanted.values() for place in held}
        lengths: dict[int, list[int]] = defaultdict(list)
        for index, path in enumerate(paths):
            segments = path.split(".")
            lengths[len(segments)].append(index)
            for place in (*enumerate(segments), *((-at, name) for at, name in enumerate(reversed(segments), 1))):
                if place in rows:
                    rows[place].append(index)
        self.rows = {place: self._bits(held) for place, held in rows.items()}
        self.lengths = {length: self._bits(held) for length, held in lengths.items()}

    def _bits(self, indices: Iterable[int]) -> int:
        held = bytearray(self.whole // 8 + 1)
        for index in indices:
            held[index // 8] |= 1 << index % 8
        return int.from_bytes(held, "little")

    def find(self, pattern: str) -> Iterator[int]:
        """The paths that a pattern matches."""
        count = len(pattern.split("."))
        left = 0
        for length, held in self.lengths.items():
            if length == count or ("**" in pattern and length >= count - 1):
                left |= held
        for place in self.wanted[pattern]:
            left &= self.rows[place]
        while left:
            lowest = left & -left
            yield lowest.bit_length() - 1
            left ^= lowest


def _literals(pattern: str) -> list[tuple[int, str]]:
    """Where literal segments stand: counted from 0 before a ``**``, from -1 at the end behind it."""
    segments = pattern.split(".")
    if segments.count("**") > 1:
        raise DocumentError("a pattern with more than one **", key=pattern)
    cut = segments.index("**") if "**" in segments else len(segments)
    return [
        (at if at < cut else at - len(segments), name) for at, name in enumerate(segments) if name not in ("*", "**")
    ]


def cover(wanted: Iterable[str], others: Iterable[str]) -> list[str]:
    """Few short patterns that match every path of ``wanted`` and none of ``others``, sorted; the same on every run.

    Greedy set cover over generalisations of each path: ``prefix.**``, ``**.suffix``, and numbers replaced by ``*``.
    """
    left, forbidden = set(wanted), list(others)
    covered: dict[str, set[str]] = defaultdict(set)
    for module in left:
        for pattern in _generalisations(module):
            covered[pattern].add(module)
    refused = {pattern for module in forbidden for pattern in _generalisations(module)}
    heap = [(-len(modules), len(pattern), pattern) for pattern, modules in covered.items() if pattern not in refused]
    heapify(heap)
    chosen: list[str] = []
    while left:
        gain, length, pattern = heappop(heap)
        now = len(covered[pattern] & left)
        # Gains only shrink, so a candidate whose gain is still the same beats all others.
        if now < -gain:
            if now:
                heappush(heap, (-now, length, pattern))
        elif "*" not in pattern.split(".") or not any(matches_pattern(pattern, module) for module in forbidden):
            chosen.append(pattern)
            left -= covered[pattern]
    return sorted(chosen)


def _generalisations(module: str) -> set[str]:
    """Patterns that match ``module``, itself included."""
    parts = module.split(".")
    starred = ["*" if part.isdigit() else part for part in parts]
    found = {module}
    for k in range(len(parts)):
        found.add(".".join([*parts[: k + 1], "**"]))
        found.add(".".join(["**", *parts[k:]]))
        found.add(".".join(["**", *starred[k:]]))
        found.add(".".join([*parts[:k], *starred[k:]]))
    return found
