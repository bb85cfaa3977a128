"""Nothing of the machine that a file was made on: no path, no folder, no user's name in what a document names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from si_hub.errors import DocumentError
from si_hub.format.versions import Document

#: An absolute path of any system, a home folder, an address of a file.
_PLACE = re.compile(r"[/~\\]|[A-Za-z]:(?=[\\/]|$)|file:")
_NAME = "a name such as sdxl, or a class name"
_REPO_ID = "user/name"
#: Shorter home folders (``/``) are in every address.
_SHORTEST_HOME = 4


def names_a_place(text: str) -> bool:
    """Whether a text is a path of some machine: absolute, of Windows, from a home folder, or out of its own folder."""
    return bool(_PLACE.match(text)) or "\\" in text or not {".", ".."}.isdisjoint(text.split("/"))


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
    """No text of a file that is to be published holds the path of this user's home folder.

    Raises:
        DocumentError: the first field or metadata key that does.
    """
    home = str(Path.home())
    if len(home) < _SHORTEST_HOME:
        return
    found = re.compile(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])")
    for key, text in [*_texts(document, "styleinject"), *metadata.items()]:
        if found.search(text):
            raise DocumentError("holds a path of this machine", file=file, key=key, found=text, hint="Save it without.")


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
