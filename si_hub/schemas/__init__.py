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


def open_schema(strict: dict[str, Any]) -> dict[str, Any]:
    """The open schema that belongs to a strict one: unknown fields may be there, and so may a later minor version."""
    major = strict["properties"]["format_version"]["const"].split(".")[0]
    schema: dict[str, Any] = _without_closing(strict)
    schema["$id"] = strict["$id"].replace(":strict", ":open")
    schema["properties"]["format_version"] = {"type": "string", "pattern": rf"^{major}\.(0|[1-9][0-9]*)$"}
    return schema


def _without_closing(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_closing(item) for item in value]
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if (key, item) != ("additionalProperties", False)}
        return {key: _without_closing(item) for key, item in kept.items()}
    return value
