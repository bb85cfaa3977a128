"""Files and folders as the Hub's JSON writes them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from tests.hub.loopback import git
from tests.hub.loopback.repository import File


def instant(seconds: int) -> str:
    """Seconds since 1970, as ``2026-01-31T00:00:00.000Z``."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def pointer_size(file: File) -> int:
    return len(git.pointer(file.sha256, file.size))


def entry(path: str, files: Mapping[str, File], trees: Mapping[str, str]) -> dict[str, Any] | None:
    """One row of a tree listing: a file, a folder, or nothing of this name."""
    if (file := files.get(path)) is not None:
        row = {"type": "file", "oid": file.oid, "size": file.size, "path": path}
        lfs = {"oid": file.sha256, "size": file.size, "pointerSize": pointer_size(file)}
        return row | ({"lfs": lfs} if file.large else {})
    return {"type": "directory", "oid": trees[path], "size": 0, "path": path} if path in trees else None


def sibling(path: str, file: File, *, blobs: bool) -> dict[str, Any]:
    """One file of a repository's info."""
    row: dict[str, Any] = {"rfilename": path}
    if blobs:
        row |= {"size": file.size, "blobId": file.oid}
        if file.large:
            row["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": pointer_size(file)}
    return row
