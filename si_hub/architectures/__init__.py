"""Base models as tables of modules: shipped for the well-known ones, read off a folder or a header for the rest."""

from __future__ import annotations

import os
from pathlib import Path

from si_hub.architectures.checkpoint import from_checkpoint
from si_hub.architectures.folder import from_folder
from si_hub.architectures.model import Architecture, Model, Module
from si_hub.architectures.shipped import load, names
from si_hub.errors import UsageError
from si_hub.words import label

__all__ = ["Architecture", "Model", "Module", "from_checkpoint", "from_folder", "load", "names", "resolve"]


def resolve(base: str | Path | Architecture) -> Architecture:
    """What ``--base`` accepts: a name, a release's repository, a diffusers folder, or a checkpoint file.

    Raises:
        UsageError: neither a known name nor an existing path; the empty text, which would be the current folder.
        MissingFile, BaseMismatch, FormatError: as `from_folder` and `from_checkpoint`.
    """
    if isinstance(base, Architecture):
        return base
    if not isinstance(base, str | os.PathLike):
        raise UsageError("is no base model", expected="a name, a folder or a file", found=repr(base))
    if base == "":
        raise UsageError("the base model's name is empty", key=label("base"))
    path = Path(base)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError:
        is_folder = is_file = False
    if is_folder:
        return from_folder(path)
    return from_checkpoint(path, map(load, names())) if is_file else load(str(base))
