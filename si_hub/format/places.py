"""Nothing of the machine that a file was made on: no path, no folder, no user's name in what a document names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from si_hub.errors import DocumentError
from si_hub.format.versions import Document
from si_hub.storage.paths import find_home, names_a_place
from si_hub.words import call

_NAME = "a name such as sdxl, or a class name"
_REPO_ID = "user/name"


def check_places(document: Document, file: Path | None = None) -> None:
    """What a document says of its base model and of its sources names no place of a machine.

    Raises:
        DocumentError: the first field that does.
    """
    base = document.get("base_model", {})
    _check(base, "architecture", "base_model", file, _NAME, slashes=0)
    _check(base, "repo_id", "base_model", file, _REPO_ID, slashes=1)
    provenance = document.get("provenance", {})
    sources = [("provenance.source", provenance.get("source"))]
    sources += [(f"provenance.sources.{number}", held) for number, held in enumerate(provenance.get("sources", ()))]
    for where, source in sources:
        _check(source, "name", where, file, "a file's name", slashes=1)
        _check(source, "repo_id", where, file, _REPO_ID, slashes=1)


def _check(fields: Any, name: str, where: str, file: Path | None, expected: str, *, slashes: int) -> None:
    value = fields.get(name) if isinstance(fields, Mapping) else None
    if isinstance(value, str) and (names_a_place(value) or value.count("/") > slashes):
        raise DocumentError(
            "names a place of one machine", file=file, key=f"styleinject.{where}.{name}", expected=expected, found=value
        )


def check_home(document: Document, metadata: Mapping[str, str], file: Path | None = None) -> None:
    """No text of a file that is to be published holds the path of a home folder: this user's, or any other's.

    Raises:
        DocumentError: the first field or metadata key that does.
    """
    named = ((key, text) for item in metadata.items() for key, text in ((item[0], item[0]), item))
    for key, text in (*_texts(document, "styleinject"), *named):
        if (home := find_home(text)) is not None:
            raise DocumentError(
                "holds the path of a home folder", file=file, key=key, found=home,
                hint=f"Convert its source again, which leaves such texts out: {call('convert', 'SOURCE')}",
            )  # fmt: skip


def _texts(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Every text of a document with its dotted path, keys of tables included."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield f"{where}.{key}", str(key)
            yield from _texts(inner, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _texts(inner, f"{where}.{number}")
