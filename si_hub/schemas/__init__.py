"""The published JSON Schemas of the document: per version a strict one for writers and an open one for readers."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

VERSIONS = ("1.0",)


@cache
def load_schema(version: str, strict: bool = False) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a format version; KeyError for a version that does not exist."""
    if version not in VERSIONS:
        raise KeyError(version)
    from importlib.resources import files

    name = "strict.json" if strict else "open.json"
    schema: dict[str, Any] = json.loads((files(__name__) / version / name).read_text(encoding="utf-8"))
    return schema
