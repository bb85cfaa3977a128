"""Layouts as tables of name patterns: most projects' names need no code.

A table maps a source's pattern to the base module's, or to a list of them in the order of the source's output rows.
``{}`` is a number, the same in both. ``~`` marks a final modulation: diffusers stores (scale, shift), the original
(shift, scale), so the halves of its rows are swapped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial

from si_hub.architectures.layouts.contract import Layout, Names, Part
from si_hub.architectures.model import Model

Table = Mapping[str, str | list[str]]


def from_table(name: str, table: Table, classes: tuple[str, ...], *, whole: bool = True) -> Layout:
    """A layout that is a table; its arguments are those of `Layout`."""
    return Layout(name, partial(_give, table), classes, whole)


def _give(table: Table, model: Model) -> Names:
    found: Names = {}
    alike = _by_shape_of_name(model)
    for source, targets in table.items():
        wanted = [targets] if isinstance(targets, str) else targets
        for numbers in _numbers(wanted[0].lstrip("~"), alike):
            paths = [_fill(target, numbers) for target in wanted]
            shapes = [model.modules[path.lstrip("~")].shape for path in paths if path.lstrip("~") in model.modules]
            # What was one matrix has one input: parts with different ones are of another model.
            if len(shapes) == len(paths) and all(shapes) and len({shape[1:] for shape in shapes}) == 1:
                found[_fill(source, numbers)] = tuple(_parts(model, paths))
    return found


_NUMBER = re.compile(r"(?<![^.])(?:[0-9]{1,4}|\{\})(?![^.])")


def _by_shape_of_name(model: Model) -> dict[str, list[str]]:
    """Module paths by what is left of them without their numbers, so that a pattern meets only those it may mean."""
    groups: dict[str, list[str]] = {}
    for path in model.modules:
        groups.setdefault(_NUMBER.sub("", path), []).append(path)
    return groups


def _numbers(target: str, alike: Mapping[str, list[str]]) -> Iterator[tuple[str, ...]]:
    """What stands for ``{}`` in the modules that a pattern means."""
    pattern = re.compile(re.escape(target).replace(r"\{\}", "([0-9]{1,4})"))
    for path in alike.get(_NUMBER.sub("", target), ()):
        if match := pattern.fullmatch(path):
            yield match.groups()


def _fill(pattern: str, numbers: tuple[str, ...]) -> str:
    for number in numbers:
        pattern = pattern.replace("{}", number, 1)
    return pattern


def _parts(model: Model, paths: list[str]) -> Iterator[Part]:
    at = 0
    for path in paths:
        shape = model.modules[path.lstrip("~")].shape
        if path.startswith("~"):
            half = shape[0] // 2
            swapped = len(shape) > 1 and shape[0] == 2 * shape[1]
            yield Part(path[1:], ((half, shape[0]), (0, half)) if swapped else None)
        else:
            yield Part(path, ((at, at + shape[0]),) if len(paths) > 1 else None)
            at += shape[0]
