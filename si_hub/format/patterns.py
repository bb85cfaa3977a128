"""Module patterns: how the document says that some layers differ from the component's default.

A pattern is segments joined by dots. A literal segment matches itself, ``*`` any one segment, ``**`` any number of
segments, none included. Nothing else is special, and a pattern always matches whole paths.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from heapq import heapify, heappop, heappush


def matches(pattern: str, module: str) -> bool:
    """Whether ``pattern`` matches the whole path ``module``; linear in the product of their lengths."""
    return _matcher(pattern)(module)


@cache
def _matcher(pattern: str) -> Callable[[str], bool]:
    wanted = pattern.split(".")

    def match(module: str) -> bool:
        # The set of pattern positions reachable so far; no backtracking, so no pattern is slow.
        states = _skip({0}, wanted)
        for segment in module.split("."):
            step = {s for s in states if s < len(wanted) and wanted[s] == "**"}
            step |= {s + 1 for s in states if s < len(wanted) and wanted[s] in ("*", segment)}
            states = _skip(step, wanted)
            if not states:
                return False
        return len(wanted) in states

    return match


def _skip(states: set[int], wanted: list[str]) -> set[int]:
    """``states`` and those reached from them where ``**`` stands for nothing."""
    reached = set(states)
    for state in states:
        while state < len(wanted) and wanted[state] == "**":
            state += 1
            reached.add(state)
    return reached


def resolve(exceptions: Mapping[str, Iterable[str]], modules: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """(module, value, pattern) for every match of a table value → patterns; a module may come up more than once."""
    listed = list(modules)
    for value, patterns in exceptions.items():
        for pattern in patterns:
            match = _matcher(pattern)
            yield from ((module, value, pattern) for module in listed if match(module))


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
        elif "*" not in pattern.split(".") or not any(map(_matcher(pattern), forbidden)):
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
