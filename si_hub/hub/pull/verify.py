"""Bytes against the listing: the client believes any body of the right size, we do not."""

from __future__ import annotations

import hashlib
from pathlib import Path

from si_hub.errors import ChecksumError
from si_hub.hub.listing import Algorithm, ListedFile
from si_hub.storage.tensors import Span


def hash_file(path: Path, algorithm: Algorithm) -> str:
    """The hash of a file, in hex.

    Raises:
        MissingFile, FileAccessError: it cannot be read.
    """
    size = path.stat().st_size
    hasher = hashlib.sha256() if algorithm == "sha256" else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    for chunk in Span(path, 0, size).chunks():
        hasher.update(chunk)
    return hasher.hexdigest()


def is_as_listed(path: Path, entry: ListedFile) -> bool:
    """Whether the file is there and is, byte for byte, the one that is listed.

    A file that only a cache without links knows has no hash: its size speaks for it.

    Raises:
        FileAccessError: it cannot be read.
    """
    if not path.is_file() or path.stat().st_size != entry.size:
        return False
    return entry.algorithm is None or hash_file(path, entry.algorithm) == entry.digest


def mismatch(entry: ListedFile, repo_id: str) -> ChecksumError:
    """What to say where the bytes stay wrong."""
    return ChecksumError(
        "the bytes that arrive are not those of the listing, however often they are fetched", file=repo_id,
        key=entry.path, expected=f"{entry.algorithm} {entry.digest}, {entry.size} bytes",
        hint="Nothing of it was kept. A proxy or the Hub is at fault; try another network, or later.",
    )  # fmt: skip
