"""Foreign text made safe and short: a stranger's words steer no terminal, break no line and hide nothing.

Foreign is what a file, a file's name, a server or another library says. Everything that is printed, warned of, drawn or
written into a page, a card or JSON passes one of the functions here.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

#: Longest line that a result prints.
LINE_LIMIT = 1000
#: Accents that stand on one letter in any script; more of them paint over the lines above.
MARKS_LIMIT = 4

#: What Python calls printable, and no eye sees: fillers, joiners, selectors of variants; the empty Braille cell.
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\uffa0\U000e0100-\U000e01ef]")
#: All that is not plain ASCII; looked at in runs, so that long texts cost little.
_SUSPECTS = re.compile("[^ -~]+")
_SUSPECTS_IN_LINES = re.compile("[^\n -~]+")


def make_safe(text: object, limit: int = 100, *, keep_end: bool = False, prose: bool = False) -> str:
    """A foreign text on one line of at most ``limit`` characters, all of them seen.

    Control characters, line breaks, escape sequences, marks of direction and what has no width are written as Python
    writes them (``\\x1b``, ``\\u202e``); a text that is too long is cut where ``…`` stands.

    Args:
        text: anything; what is no text is written as `str` does.
        limit: characters of the result, at most.
        keep_end: cut in the middle, since the end of a name tells it from others.
        prose: line breaks and other spaces are one space each, none at either end.
    """
    found = str(text)
    if prose:
        # Eight times as much, since spaces may fall away; not all of it, since it may be a hundred megabytes.
        found = " ".join(found[: 8 * limit + 8].split())
    whole = len(found) <= limit
    if keep_end:
        return _cut_middle(found, limit)
    shown = _escape_marks(_escape(found[: limit + 1]))
    return shown if whole and len(shown) <= limit else f"{shown[: limit - 1]}…"


def join_safely(lines: Iterable[str], limit: int = LINE_LIMIT) -> str:
    """Lines for people, each one a line whatever foreign text is in it."""
    return "\n".join(make_safe(line, limit) for line in lines)


def make_lines_safe(text: str) -> str:
    """A text of several lines, its line breaks kept and everything else as `make_safe` has it; nothing is cut."""
    return _SUSPECTS_IN_LINES.sub(lambda run: _escape(run[0]), text)


def json_text(data: Any, indent: int | None = None) -> str:
    """JSON that means what ``data`` is and, printed, is as harmless as `make_safe`: ``\\u202e`` stands for itself."""
    text = json.dumps(data, ensure_ascii=False, indent=indent)
    # Beyond ASCII there is nothing outside of strings, in which every escape of JSON may stand.
    return _SUSPECTS_IN_LINES.sub(lambda run: _escape_run(run[0], _as_json), text)


def _cut_middle(text: str, limit: int) -> str:
    shown = _escape_marks(_escape(text if len(text) <= 2 * limit else text[:limit] + text[-limit:]))
    if len(text) <= 2 * limit and len(shown) <= limit:
        return shown
    half = (limit - 3) // 2
    return f"{shown[:half]} … {shown[-half:]}"


def _escape(text: str) -> str:
    return _SUSPECTS.sub(lambda run: _escape_run(run[0], _as_python), text)


def _escape_run(run: str, write: Any) -> str:
    if run.isprintable() and not _BLANK.search(run):
        return run
    return "".join(write(c) if not c.isprintable() or _BLANK.match(c) else c for c in run)


def _as_python(character: str) -> str:
    return ascii(character)[1:-1]


def _as_json(character: str) -> str:
    """``\\uXXXX``, two of them beyond the first plane; json itself leaves DEL as it is."""
    return json.dumps(character)[1:-1] if character != "\x7f" else "\\u007f"


def _escape_marks(text: str) -> str:
    """Accents on accents, as escapes from the fifth on."""
    if text.isascii():
        return text
    shown, stacked = [], 0
    for character in text:
        stacked = stacked + 1 if unicodedata.category(character) in ("Mn", "Me") else 0
        shown.append(character if stacked <= MARKS_LIMIT else _as_python(character))
    return "".join(shown)
