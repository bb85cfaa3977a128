"""A repository in huggingface_hub's cache: its own layout, in which every file was verified before it appeared.

Beside huggingface_hub's ``blobs``, ``refs`` and ``snapshots`` a folder ``si-hub`` keeps the listing of every commit
that something was fetched from. With it a cached file is verified again whenever it is used, without a request: a
cache is shared with other tools, and hashing is faster than anything that follows.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from si_hub.errors import FileAccessError, FormatError, SiHubError
from si_hub.hub import listing as listings
from si_hub.hub.listing import ListedFile, Listing
from si_hub.hub.names import RepoRef, is_commit, is_sha256, why_unsafe
from si_hub.hub.pull import verify
from si_hub.storage.files import atomic_file
from si_hub.storage.header import parse_json
from si_hub.storage.leftovers import TEMPORARY_PREFIX, TEMPORARY_SUFFIX
from si_hub.storage.paths import expand_home
from si_hub.storage.system import link_or_move

RECORDS = "si-hub"


class Cache:
    """One repository's part of the cache.

    Args:
        repo_id: whose.
        cache_dir: another cache than huggingface_hub's.
    """

    def __init__(self, repo_id: str, cache_dir: str | Path | None = None) -> None:
        from huggingface_hub import constants

        self.repo_id = repo_id
        self.folder = expand_home(cache_dir or constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}"

    def commit(self, ref: RepoRef) -> str | None:
        """The commit that a revision was when it was last fetched."""
        from huggingface_hub import constants

        revision = ref.revision or constants.DEFAULT_REVISION
        if is_commit(revision):
            return revision
        file = self.folder / "refs" / revision
        said = file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else ""
        return said if is_commit(said) else None

    def path(self, commit: str, name: str = "") -> Path:
        """Where a file of a commit is, or would be."""
        return self.folder / "snapshots" / commit / name

    def known_listing(self, commit: str) -> Listing | None:
        """The listing of a commit as the Hub gave it, if something of it was fetched."""
        found = read_record(self._record(commit)) if is_commit(commit) else None
        return found if found is not None and (found.repo_id, found.commit) == (self.repo_id, commit) else None

    def find_listing(self, commit: str) -> Listing | None:
        """What is known of a commit without asking: the listing as the Hub gave it, or else the files in the cache."""
        if recorded := self.known_listing(commit):
            return recorded
        folder = self.path(commit)
        if not folder.is_dir():
            return None
        names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        return Listing(
            self.repo_id, commit, {name: self._entry(commit, name) for name in names if not why_unsafe(name)}
        )

    def _entry(self, commit: str, name: str) -> ListedFile:
        """A file that another tool fetched: huggingface_hub names a blob by its hash."""
        path = self.path(commit, name)
        blob = Path(os.readlink(path)).name if path.is_symlink() else ""
        size = path.stat().st_size
        if is_sha256(blob):
            return ListedFile(name, size, "sha256", blob)
        return ListedFile(name, size, "git-sha1", blob) if is_commit(blob) else ListedFile(name, size, None, None)

    def holds(self, listing: Listing, entry: ListedFile) -> bool:
        """Whether a file of a commit is here and whole; one that is here and is not whole is removed.

        Raises:
            FileAccessError: it cannot be read or removed.
        """
        path = self.path(listing.commit, entry.path)
        with translate_errors(self.folder):
            if verify.is_as_listed(path, entry):
                return True
            if os.path.lexists(path):
                self._remove(path)
            if entry.digest is None or not verify.is_as_listed(blob := self.folder / "blobs" / entry.digest, entry):
                return False
            self._link(blob, path)
            return True

    def place(self, arrived: Path, listing: Listing, entry: ListedFile) -> Path:
        """Move a verified file to its place, as huggingface_hub would have; its path there."""
        from huggingface_hub import constants

        path = self.path(listing.commit, entry.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if constants.HF_HUB_DISABLE_SYMLINKS or entry.digest is None:
            os.replace(arrived, path)
            return path
        blob = self.folder / "blobs" / entry.digest
        blob.parent.mkdir(parents=True, exist_ok=True)
        os.replace(arrived, blob)
        self._link(blob, path)
        return path

    def keep(self, listing: Listing, revision: str | None = None) -> None:
        """Remember a listing whose files arrived, and which commit a branch or tag was; a read-only cache cannot."""
        from huggingface_hub import constants

        revision = revision or constants.DEFAULT_REVISION
        with suppress(OSError):
            known = self.known_listing(listing.commit)
            ours = {**(known.ours if known else {}), **listing.ours}
            write_record(self._record(listing.commit), replace(listing, ours=ours))
            if not is_commit(revision):
                _write(self.folder / "refs" / revision, listing.commit.encode())

    def _record(self, commit: str) -> Path:
        return self.folder / RECORDS / f"{commit}.json"

    def _link(self, blob: Path, path: Path) -> None:
        """Let ``path`` be ``blob``: as `link_or_move` can."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
        link_or_move(blob, path, temporary)

    def _remove(self, path: Path) -> None:
        """Remove a file that is not what it should be, and the blob that it is a link to."""
        if path.is_symlink():
            blob = path.parent / os.readlink(path)
            if Path(os.path.abspath(blob)).parent == Path(os.path.abspath(self.folder / "blobs")):
                blob.unlink(missing_ok=True)
        path.unlink(missing_ok=True)


@contextmanager
def translate_errors(folder: Path) -> Iterator[None]:
    """Errors of the file system below a folder become ours."""
    try:
        yield
    except SiHubError:
        raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise FileAccessError(f"cannot be written: {reason}", file=error.filename or folder) from error


def read_record(file: Path) -> Listing | None:
    """The listing that was written to a file; None where there is none, or no whole one."""
    if not file.is_file():
        return None
    try:
        return listings.listing_from_dict(parse_json(file.read_bytes(), file=file, what="the listing"))
    except (FormatError, LookupError, TypeError, AttributeError):
        return None


def write_record(file: Path, listing: Listing) -> None:
    """Write a listing to a file, whole or not at all.

    Raises:
        FileAccessError: no permission, no space.
    """
    _write(file, json.dumps(listing.as_dict(), ensure_ascii=False, sort_keys=True).encode())


def _write(file: Path, data: bytes) -> None:
    if file.is_file() and file.read_bytes() == data:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file, overwrite=True) as out:
        out.write(data)
