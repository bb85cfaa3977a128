"""The YAML at the head of a model card."""

from __future__ import annotations

import re
from typing import Any

import yaml

HEAD = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)


def metadata(text: str) -> dict[str, Any]:
    """The card's metadata, empty where it has none.

    Raises:
        ValueError: they are no YAML, or no table.
    """
    head = HEAD.search(text)
    if head is None:
        return {}
    try:
        found = yaml.safe_load(head[1])
    except yaml.YAMLError as problem:
        raise ValueError(str(problem)) from problem
    if not isinstance(found, dict | None):
        raise ValueError(f"the metadata are no table but {type(found).__name__}")
    return found or {}
