"""Docstrings of this project as the site reads them: ``rank, size: the budget`` is said of each of the two."""

from __future__ import annotations

import re

_SECTION = re.compile(r"^( *)(Args|Attributes|Raises):[ ]*$")
_SEVERAL = re.compile(r"^( +)(\w+(?:, \w+)+): (.*)$")


def split_names(text: str) -> str:
    """A docstring whose entries have one name each, with the same words."""
    lines = text.split("\n")
    made: list[str] = []
    section: str | None = None
    at = 0
    while at < len(lines):
        line = lines[at]
        if found := _SECTION.match(line):
            section = found[1]
        elif section is not None and line.strip() and not line.startswith(section + " "):
            section = None
        several = _SEVERAL.match(line) if section is not None else None
        at += 1
        if several is None:
            made.append(line)
            continue
        more = []
        while at < len(lines) and lines[at].startswith(several[1] + " "):
            more.append(lines[at])
            at += 1
        for name in several[2].split(", "):
            made += [f"{several[1]}{name}: {several[3]}", *more]
    return "\n".join(made)
