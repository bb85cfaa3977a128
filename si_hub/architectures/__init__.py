"""Base models as tables of modules: shipped for the well-known ones, read off a folder or a header for the rest."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from si_hub.architectures.bases import BASES, find_base
from si_hub.architectures.checkpoint import from_checkpoint
from si_hub.architectures.folder import from_folder
from si_hub.architectures.model import Architecture, Model, Module, load_modules
from si_hub.errors import UsageError

__all__ = ["Architecture", "Model", "Module", "from_checkpoint", "from_folder", "load", "names", "resolve"]

_TABLES = Path(__file__).with_name("tables")


def names() -> tuple[str, ...]:
    """The shipped base models."""
    return tuple(base.name for base in BASES)


@cache
def load(name: str) -> Architecture:
    """A shipped base model by name or alias.

    Raises:
        UsageError: no such name.
    """
    if base := find_base(name):
        components = {attribute: _model(part.table) for attribute, part in base.components.items()}
        return Architecture(base.name, components, base.prediction_type, base.aliases)
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
def _model(table: str) -> Model:
    data = json.loads((_TABLES / f"{table}.json").read_text(encoding="utf-8"))
    return Model(data["class_name"], load_modules(data["modules"]))
