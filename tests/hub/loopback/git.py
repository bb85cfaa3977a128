"""The object ids of git, as the Hub answers them: of blobs, of LFS pointers, of trees and of commits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping


def object_id(kind: str, content: bytes) -> str:
    """The SHA-1 that git gives an object, 40 hex digits."""
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content).hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    """The text that stands in the git tree in place of a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def tree_ids(blobs: Mapping[str, str]) -> dict[str, str]:
    """The tree id of every folder, the root as ``""``, of files given as path to blob id."""
    folders: dict[str, dict[str, str]] = {"": {}}
    for path, blob in blobs.items():
        folder, _, name = path.rpartition("/")
        for outer in parents(path):
            folders.setdefault(outer, {})
        folders[folder][name] = blob
    found: dict[str, str] = {}
    for folder in sorted(folders, key=lambda name: name.count("/") + bool(name), reverse=True):
        inner = {name.rpartition("/")[2]: found[name] for name in found if _parent(name) == folder}
        rows = [(name, "100644", oid) for name, oid in folders[folder].items()]
        rows += [(f"{name}/", "40000", oid) for name, oid in inner.items()]
        lines = (f"{mode} {name.rstrip('/')}\0".encode() + bytes.fromhex(oid) for name, mode, oid in sorted(rows))
        found[folder] = object_id("tree", b"".join(lines))
    return found


def parents(path: str) -> list[str]:
    """The folders that a path lies in, outermost first, without the root."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: end + 1]) for end in range(len(parts))]


def commit_id(tree: str, parent: str | None, author: str, time: int, message: str) -> str:
    """The id of a commit; ``time`` in seconds since 1970."""
    who = f"{author} <{author}@loopback> {time} +0000"
    lines = [
        f"tree {tree}",
        *([f"parent {parent}"] if parent else []),
        f"author {who}",
        f"committer {who}",
        "",
        message,
    ]
    return object_id("commit", ("\n".join(lines) + "\n").encode())


def _parent(folder: str) -> str | None:
    return folder.rpartition("/")[0] if folder else None
