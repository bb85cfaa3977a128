"""Bytes ↔ `Adapter`: StyleInject files by docs/FORMAT.md, read lazily and written deterministically."""

from __future__ import annotations

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

__all__ = [
    "DEFAULT_NAME",
    "FORMAT_VERSION",
    "Written",
    "adapter_of",
    "identity",
    "is_styleinject",
    "read",
    "read_document",
    "validate",
    "write",
]
