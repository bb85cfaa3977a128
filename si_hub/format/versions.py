"""Format versions: what this library reads, what it writes, and the way from older documents to newer ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from si_hub.errors import DocumentError, UnsupportedVersion
from si_hub.schedule import SCHEDULE

#: MAJOR.MINOR of the format, apart from the library's version.
FORMAT_VERSION = "1.0"

#: Names that ``requires`` may hold: what came after 1.0 and is understood here.
FEATURES: frozenset[str] = frozenset({"int8", SCHEDULE})

Document = dict[str, Any]
Migration = Callable[[Document], Document]

#: From a version to the next one, as pure functions; the result carries the new ``format_version``.
MIGRATIONS: Mapping[str, Migration] = {}

_VERSION = re.compile(r"(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})")


def parse_version(value: object, file: Path | None = None) -> tuple[int, int]:
    """(major, minor); DocumentError for anything that is not MAJOR.MINOR."""
    match = _VERSION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise DocumentError("is not MAJOR.MINOR", file=file, key="format_version", found=repr(value)[:40])
    return int(match[1]), int(match[2])


def check_version(document: Mapping[str, Any], file: Path | None = None) -> tuple[int, int]:
    """Refuse a higher major version, and a ``requires`` that names something unknown.

    Raises:
        UnsupportedVersion: with how to upgrade.
        DocumentError: format_version or requires is malformed.
    """
    version = parse_version(document.get("format_version"), file)
    ours = parse_version(FORMAT_VERSION)
    if version[0] != ours[0]:
        raise UnsupportedVersion(
            "written in a format version this library does not read", file=file, key="format_version",
            expected=f"{ours[0]}.x", found=document["format_version"],
            hint="Upgrade: pip install --upgrade si-hub." if version > ours else "Take an older si-hub to read it.",
        )  # fmt: skip
    requires = document.get("requires", [])
    if not isinstance(requires, list) or not all(isinstance(name, str) for name in requires):
        raise DocumentError("is not a list of names", file=file, key="requires")
    unknown = sorted(set(requires) - FEATURES)
    if unknown:
        raise UnsupportedVersion(
            f"needs what this library does not have: {', '.join(unknown)[:200]}", file=file, key="requires",
            hint="Upgrade: pip install --upgrade si-hub.",
        )  # fmt: skip
    return version


def migrate(document: Document, migrations: Mapping[str, Migration] = MIGRATIONS) -> Document:
    """The document in the newest version that ``migrations`` lead to; the argument is left as it was."""
    while (version := document["format_version"]) in migrations:
        document = migrations[version](document)
        if document["format_version"] == version:
            raise ValueError(f"the migration from {version} leads nowhere")
    return document
