"""What a run reads besides its options, as data that is another where anything that matters has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

#: Bytes up to which a model's file is known by its content; size and time must say of larger ones what they are.
READ = 16 << 20
#: Files of a model's folder that no pipeline reads.
_TOLD = {".md", ".png", ".jpg", ".jpeg", ".webp", ".gif", ".mp4", ".pdf"}


def model(path: Path) -> list[Any]:
    """A model's files as they are now: weights, configurations, tokenizers, scheduler; its place is part of it."""
    found: list[Any] = []
    for file in _files(path) if path.is_dir() else [path]:
        fact = file.stat()
        name = file.relative_to(path).as_posix() if file != path else file.name
        found.append([name, _digest(file) if fact.st_size <= READ else [fact.st_size, fact.st_mtime_ns]])
    return [str(path.resolve()), found]


def contents(files: Iterable[Path]) -> str:
    """Names and contents of files, in order, as a SHA-256; one that is not there counts as such."""
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.name}\0{_digest(file) if file.is_file() else ''}\0".encode())
    return whole.hexdigest()


def _files(folder: Path) -> list[Path]:
    """What a pipeline may read of a folder; one of its own folders may be a link to another model's."""
    held = [file for one in folder.iterdir() for file in (one.rglob("*") if one.is_dir() else [one])]
    return sorted(
        file for file in held
        if file.suffix.lower() not in _TOLD and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )  # fmt: skip


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
