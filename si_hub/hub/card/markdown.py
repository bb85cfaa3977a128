"""Strangers' texts as Markdown: nothing that comes from an adapter can become markup, a link, a picture or a marker."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from si_hub.foreign import make_safe

#: Characters that Markdown, HTML, mathematics or tables read as markup, wherever they stand on a line.
_ENTITIES = str.maketrans(
    {mark: f"&#{ord(mark)};" for mark in "&<>|`$@"} | {mark: f"\\{mark}" for mark in "\\*_[]()!~#"}
)
#: What is markup by what it stands before or after: addresses, and the first of a line.
_BY_PLACE = re.compile(r"(?i)(?<=www)\.|:(?=//)|\A[-+=](?=[\s=-]|\Z)|\A\d{1,9}\.(?=\s|\Z)")
ROWS = 40
COLUMNS = 8
#: Characters of a list in a cell.
CELL = 600


def escape(text: object, limit: int = 300) -> str:
    """One line of plain text that shows as it is, wherever it stands."""
    plain = make_safe(text, limit, prose=True).translate(_ENTITIES)
    # A bare address would become a link that nobody chose; www. too. At the head of a line some characters make a list,
    # a rule or a title of the line above.
    return _BY_PLACE.sub(lambda match: f"{match[0][:-1]}&#{ord(match[0][-1])};", plain)


def fence(language: str, lines: Iterable[str]) -> str:
    """A block of code. ``lines`` are ours: none begins with a fence."""
    return "\n".join([f"```{language}", *lines, "```"])


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table, its cells escaped; of very long ones the first rows, and how many are missing."""
    shown = [f"| {' | '.join(map(_cell, row))} |" for row in rows[:ROWS]]
    more = [] if len(rows) <= ROWS else [f"| … {len(rows) - ROWS} more |{' |' * (len(head) - 1)}"]
    return "\n".join([f"| {' | '.join(map(escape, head))} |", f"|{'---|' * len(head)}", *shown, *more])


def tables(values: Mapping[str, Any]) -> str:
    """Free JSON data as tables: one of its single values, one for every list of objects with the same keys."""
    pairs, grids = [], []
    for name, value in flat(values):
        if _is_grid(value):
            columns = list(value[0])[:COLUMNS]
            title = escape(f"{name[:1].upper()}{name[1:]}")
            grids.append(f"{title}:\n\n{table(columns, [[row[c] for c in columns] for row in value])}")
        else:
            pairs.append((name, value))
    return "\n\n".join(([table(("", ""), pairs)] if pairs else []) + grids[:COLUMNS])


def flat(values: Mapping[str, Any], prefix: str = "", depth: int = 6) -> Iterator[tuple[str, Any]]:
    """``{"a": {"b": 1}}`` as ``("a › b", 1)``; deeper than ``depth`` it is left as it is."""
    for name, value in values.items():
        if isinstance(value, Mapping) and depth:
            yield from flat(value, f"{prefix}{name} › ", depth - 1)
        else:
            yield f"{prefix}{name}".replace("_", " "), value


def _is_grid(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(row, Mapping) and row.keys() == value[0].keys() and row for row in value)
    )


def _cell(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return escape(f"{value:.4g}")
    if isinstance(value, list) and not any(isinstance(item, list) for item in value):
        # Whole items only: an escape that is cut through would be another one.
        shown = [_cell(item) for item in value[:ROWS]]
        lengths = accumulate(len(item) + 2 for item in shown)
        return ", ".join(item for item, length in zip(shown, lengths, strict=True) if length <= CELL)
    return escape(value)
