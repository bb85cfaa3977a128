"""Bytes ↔ `Adapter`: StyleInject files by docs/FORMAT.md, read lazily and written deterministically.

Names are imported when they are first used: looking at a file never pays for what writing one needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from si_hub.format.hashes import identity as identity
    from si_hub.format.reader import adapter_of as adapter_of
    from si_hub.format.reader import is_styleinject as is_styleinject
    from si_hub.format.reader import read as read
    from si_hub.format.reader import read_document as read_document
    from si_hub.format.validation import validate as validate
    from si_hub.format.versions import FORMAT_VERSION as FORMAT_VERSION
    from si_hub.format.writer import Written as Written
    from si_hub.format.writer import write as write

#: The file name that loaders look for in a folder or repository.
DEFAULT_NAME = "styleinject.safetensors"

_HOMES = {
    "FORMAT_VERSION": "versions",
    "Written": "writer",
    "adapter_of": "reader",
    "identity": "hashes",
    "is_styleinject": "reader",
    "read": "reader",
    "read_document": "reader",
    "validate": "validation",
    "write": "writer",
}

__all__ = ["DEFAULT_NAME", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'si_hub.format' has no attribute {name!r}")
    return getattr(import_module(f"si_hub.format.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
