"""Module patterns: how the document says that some layers differ from the component's default.

A pattern is segments joined by dots. A literal segment matches itself, ``*`` any one segment, ``**``, at most once in a
pattern, any number of segments, none included. Nothing else is special, and a pattern always matches whole paths.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from heapq import heapify, heappop, heappush
from pathlib import Path

from si_hub.errors import DocumentError

#: Patterns times layers of one table; the most irregular adapter for SDXL has half a million.
WORK_LIMIT = 10_000_000

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
    listed = [module + "." for module in modules]
    pairs = [(value, pattern) for value, patterns in exceptions.items() for pattern in patterns]
    if len(pairs) * len(listed) > WORK_LIMIT:
        raise DocumentError(
            "too many patterns", file=file, key=key, expected=f"at most {WORK_LIMIT // len(listed)}", found=len(pairs)
        )
    for value, pattern in pairs:
        match = _matcher(pattern)
        yield from ((path[:-1], value, pattern) for path in listed if match(path))


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
