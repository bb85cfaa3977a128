"""Text for a terminal, pipe or file that cannot hold all characters, as on Windows most cannot."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterable
from typing import Any

_ESCAPE = "si_hub.escape"


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    pairs = (units[at : at + 2].hex() for at in range(0, len(units), 2))
    return "".join(f"\\u{pair}" for pair in pairs), error.end


def escape_unprintable(streams: Iterable[Any]) -> None:
    """Let streams write what they have no character for as JSON would, ``\\u2192``, instead of raising."""
    codecs.register_error(_ESCAPE, _escape)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ESCAPE)
