"""Everything that can be checked about one file: what a reader must check, and what a writer must have kept."""

from __future__ import annotations

from pathlib import Path

from si_hub.adapter import Adapter
from si_hub.errors import BadMetadata
from si_hub.format import document as documents
from si_hub.format.modelspec import derive
from si_hub.format.places import check_places
from si_hub.format.reader import read, read_document
from si_hub.format.versions import FORMAT_VERSION
from si_hub.storage.header import read_safetensors


def validate(path: str | Path) -> Adapter:
    """Check a file whole: header, document by the strict schema of its version, layers, derived keys, hash, NaN.

    A file of a later minor version is checked as far as this library knows it.

    Raises:
        FormatError: the subclass says which rule of docs/FORMAT.md the file breaks.
        ChecksumError: the data section is not what was written.
        MissingFile, FileAccessError: no such file, no access.
    """
    file = read_safetensors(path)
    document = read_document(file)
    adapter = read(path, verify=True)
    if document["format_version"] == FORMAT_VERSION:
        documents.check_schema(document, strict=True, file=file.path)
    check_places(document, file.path)
    for key, text in {"format": "pt", **derive(document)}.items():
        if file.metadata.get(key) != text:
            raise BadMetadata(
                "differs from what the document says", file=file.path, key=key, expected=text,
                found=file.metadata.get(key),
            )  # fmt: skip
    return adapter
