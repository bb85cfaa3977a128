"""Base models as tables of modules: shipped for the well-known ones, read off a folder or a header for the rest."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from si_hub.architectures.checkpoint import from_checkpoint
from si_hub.architectures.folder import from_folder
from si_hub.architectures.model import Architecture, Model, Module, load_modules
from si_hub.errors import UsageError

__all__ = ["Architecture", "Model", "Module", "from_checkpoint", "from_folder", "load", "names", "resolve"]

_TABLES = Path(__file__).with_name("tables")


def names() -> tuple[str, ...]:
    """The shipped base models."""
    return tuple(_index())


@cache
def load(name: str) -> Architecture:
    """A shipped base model by name or alias.

    Raises:
        UsageError: no such name.
    """
    for known, entry in _index().items():
        if name.lower() in {known, *entry["aliases"]}:
            components = {attribute: _model(table) for attribute, table in entry["components"].items()}
            return Architecture(known, components, entry.get("prediction_type"), tuple(entry["aliases"]))
    raise UsageError(
        f"no base model is called {name!r}", expected=", ".join(names()),
        hint="A diffusers folder or a checkpoint file is a base model too.",
    )  # fmt: skip


def resolve(base: str | Path | Architecture) -> Architecture:
    """What ``--base`` accepts: a name, a diffusers folder, or a checkpoint file.

    Raises:
        UsageError: neither a known name nor an existing path.
        MissingFile, BaseMismatch, FormatError: as `from_folder` and `from_checkpoint`.
    """
    if isinstance(base, Architecture):
        return base
    path = Path(base)
    if path.is_dir():
        return from_folder(path)
    if path.is_file():
        return from_checkpoint(path, map(load, names()))
    return load(str(base))


@cache
def _index() -> dict[str, Any]:
    return _table("architectures")


@cache
def _model(table: str) -> Model:
    data = _table(table)
    return Model(data["class_name"], load_modules(data["modules"]))


def _table(name: str) -> dict[str, Any]:
    text = (_TABLES / f"{name}.json").read_text(encoding="utf-8")
    value: dict[str, Any] = json.loads(text)
    return value
