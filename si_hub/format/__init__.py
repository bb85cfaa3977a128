"""Bytes ↔ `Adapter`: StyleInject files by docs/FORMAT.md, read lazily and written deterministically.

Names are imported when they are first used: looking at a file never pays for what writing one needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from si_hub.lazy import lazy

if TYPE_CHECKING:
    from si_hub.format.hashes import identity as identity
    from si_hub.format.reader import is_styleinject as is_styleinject
    from si_hub.format.reader import parse_adapter as parse_adapter
    from si_hub.format.reader import read as read
    from si_hub.format.reader import read_document as read_document
    from si_hub.format.validation import validate as validate
    from si_hub.format.versions import FORMAT_VERSION as FORMAT_VERSION
    from si_hub.format.writer import Written as Written
    from si_hub.format.writer import write as write

#: The file name that loaders look for in a folder or repository.
DEFAULT_NAME = "styleinject.safetensors"

_HOMES = {
    "FORMAT_VERSION": "si_hub.format.versions",
    "Written": "si_hub.format.writer",
    "parse_adapter": "si_hub.format.reader",
    "identity": "si_hub.format.hashes",
    "is_styleinject": "si_hub.format.reader",
    "read": "si_hub.format.reader",
    "read_document": "si_hub.format.reader",
    "validate": "si_hub.format.validation",
    "write": "si_hub.format.writer",
}

__all__ = ["DEFAULT_NAME", *_HOMES]


__getattr__, __dir__ = lazy(__name__, _HOMES)
