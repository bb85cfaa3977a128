"""Base models as tables of modules: shipped for the well-known ones, read off a folder or a header for the rest."""

from __future__ import annotations

from pathlib import Path

from si_hub.architectures.checkpoint import from_checkpoint
from si_hub.architectures.folder import from_folder
from si_hub.architectures.model import Architecture, Model, Module
from si_hub.architectures.shipped import load, names

__all__ = ["Architecture", "Model", "Module", "from_checkpoint", "from_folder", "load", "names", "resolve"]


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
