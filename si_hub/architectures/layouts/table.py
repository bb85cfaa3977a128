"""Layouts as tables of name patterns: most projects' names need no code.

A table maps a source's pattern to the base module's, or to a list of them in the order of the source's output rows, or
to a tuple of those that it may be. ``{}`` is a number, the same in both. ``~`` marks a final modulation: diffusers
stores (scale, shift), the original (shift, scale), so the halves of its rows are swapped; ``^`` marks a gated layer,
the halves of whose rows are swapped whatever its size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial

from si_hub.architectures.layouts.contract import Layout, Names, Part
from si_hub.architectures.model import Model

Table = Mapping[str, str | list[str] | tuple[str, ...]]

#: Before the path of a base module whose halves are swapped.
_MARKS = "~^"


def from_table(name: str, table: Table, classes: tuple[str, ...], *, whole: bool = True) -> Layout:
    """A layout that is a table; its arguments are those of `Layout`."""
    return Layout(name, partial(_give, table), classes, whole, local=True)


def from_words(name: str, words: Mapping[str, str], classes: tuple[str, ...]) -> Layout:
    """A layout that has other words for some dotted parts of diffusers' names; ``words`` maps these to its own."""
    return Layout(name, partial(_reword, words), classes, whole=True, local=True)


def _reword(words: Mapping[str, str], model: Model) -> Names:
    word = re.compile(rf"(?<![^.])(?:{'|'.join(map(re.escape, words))})(?![^.])")
    return {word.sub(lambda match: words[match[0]], path): (Part(path),) for path in model.modules}


def _give(table: Table, model: Model) -> Names:
    found: Names = {}
    alike = _by_shape_of_name(model)
    for source, wanted in _rows(table):
        for numbers in _numbers(_bare(wanted[0]), alike):
            paths = [_fill(target, numbers) for target in wanted]
            shapes = [model.modules[path].shape for path in map(_bare, paths) if path in model.modules]
            # What was one matrix has one input: parts with different ones are of another model.
            if len(shapes) == len(paths) and all(shapes) and len({shape[1:] for shape in shapes}) == 1:
                found[_fill(source, numbers)] = tuple(_parts(model, paths))
    return found


def _rows(table: Table) -> Iterator[tuple[str, list[str]]]:
    """The table with a row for each of several that a source may be."""
    for source, targets in table.items():
        if isinstance(targets, list):
            yield source, targets
        else:
            yield from ((source, [target]) for target in ((targets,) if isinstance(targets, str) else targets))


def _bare(target: str) -> str:
    return target.lstrip(_MARKS)


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
        shape = model.modules[_bare(path)].shape
        if path.startswith(tuple(_MARKS)):
            half = shape[0] // 2
            swapped = path.startswith("^") or (len(shape) > 1 and shape[0] == 2 * shape[1])
            yield Part(path[1:], ((half, shape[0]), (0, half)) if swapped else None)
        else:
            yield Part(path, ((at, at + shape[0]),) if len(paths) > 1 else None)
            at += shape[0]
