"""A repository's adapter, brought here: one commit, only what is safe, every byte verified before it can be used."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from si_hub.errors import FileAccessError, MissingFile, UsageError
from si_hub.foreign import join_safely, make_safe
from si_hub.hub import listing as listings
from si_hub.hub import names
from si_hub.hub.client import Client
from si_hub.hub.listing import ListedFile, Listing
from si_hub.hub.names import RepoRef
from si_hub.hub.pull import transfer, verify
from si_hub.hub.pull.cache import Cache, read_record, translate_errors, write_record
from si_hub.hub.pull.selection import select_safe
from si_hub.report.progress import Progress
from si_hub.report.text import reasons, size_text
from si_hub.storage.access import tell_access_errors
from si_hub.storage.paths import expand_home
from si_hub.tokens import conceal
from si_hub.words import call, label, switch

#: Where a folder remembers what was pulled into it: with that, files that the user changed are told from old ones.
PULLED = ".cache/si-hub/pulled.json"


@dataclass(frozen=True, slots=True)
class Pulled:
    """A pulled repository.

    Attributes:
        repo_id, commit: what it is.
        folder: where its files are: in the cache, or the folder that was asked for.
        files: their names in it.
        left_out: files that were not fetched, and why.
        size: bytes of the files.
        fetched: bytes of those that were not here before.
        lock: ``user/name@commit``: pulling or loading that gives these bytes for ever.
    """

    repo_id: str
    commit: str
    folder: Path
    files: tuple[str, ...]
    left_out: dict[str, str]
    size: int
    fetched: int
    lock: str

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON data."""
        return {
            "repo_id": self.repo_id, "commit": self.commit, "folder": str(self.folder), "files": list(self.files),
            "left_out": self.left_out, "size": self.size, "fetched": self.fetched, "lock": self.lock,
        }  # fmt: skip

    def as_text(self) -> str:
        """The result as lines for people."""
        return join_safely(
            [
                str(self.folder),
                *(f"  {make_safe(name, 300, keep_end=True)}" for name in self.files),
                f"  size     {size_text(self.size)}, {size_text(self.fetched)} fetched",
                *(f"  left out {line}" for line in reasons(self.left_out)),
                f"  lock     {self.lock}",
            ]
        )


@tell_access_errors()
def pull(
    repo_id: str,
    *,
    revision: str | None = None,
    local_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    subfolder: str | None = None,
    weight_name: str | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    token: str | bool | None = None,
    max_workers: int = 8,
    progress: Progress | None = None,
) -> Pulled:
    """Fetch one commit of a repository: safetensors, JSON, Markdown and images, each verified against the listing.

    Nothing is ever half there: a file appears when it is whole and its hash is right, in a folder all of them
    together. A transfer that breaks goes on where it broke, within this call.

    Args:
        repo_id: ``user/name``, or ``user/name@revision``.
        revision: a branch, tag or commit; the default branch by default.
        local_dir: a folder for the files; huggingface_hub's cache by default.
        cache_dir: another cache.
        subfolder: only what is in it.
        weight_name: of the weights only this file.
        force_download: fetch what is here already, and replace files in ``local_dir`` that are not as they were
            pulled.
        local_files_only: never ask the Hub; so is ``HF_HUB_OFFLINE``.
        token: a token; by default that of `hf auth login`, False for none.
        max_workers: files fetched at once.
        progress: told (bytes done, bytes in all).

    Raises:
        MissingRepository, MissingRevision, MissingEntry, MissingFile: there is no such thing, or not in the cache.
        AuthError, GatedRepository, RateLimited, NetworkError: the Hub says no, or nothing.
        BadListing, ChecksumError: what it says or sends cannot be right.
        FileAccessError: a file is in the way, no space, no permission.
        UsageError: names that cannot be.
    """
    token = conceal(token)
    ref = names.parse_ref(repo_id, revision)
    cache = Cache(ref.repo_id, cache_dir)
    client = Client(token)
    local_files_only = local_files_only or is_offline()
    if local_files_only and force_download:
        raise UsageError(
            "nothing can be fetched where nothing may be asked", key=label("force", python="force_download")
        )
    if local_files_only:
        listing = cached_listing(ref, cache)
    else:
        known = None if force_download else _pinned_listing(ref, cache, subfolder, weight_name)
        listing = known or listings.fetch_listing(client, ref)
    chosen, left_out = select_safe(listing, subfolder, weight_name)
    names.check_collisions((entry.path for entry in chosen), ref.repo_id)
    source = None if local_files_only else client
    folder = cache.path(listing.commit) if local_dir is None else expand_home(local_dir)
    if local_dir is None:
        fetched = into_cache(source, listing, chosen, cache, force_download, max_workers, progress)
        if not local_files_only:  # What the cache can tell by itself may be a part of the commit.
            cache.keep(listing, ref.revision)
    else:
        fetched = _into_folder(source, listing, chosen, folder, cache, force_download, max_workers, progress)
    files = tuple(sorted(entry.path for entry in chosen))
    size = sum(entry.size for entry in chosen)
    return Pulled(ref.repo_id, listing.commit, folder, files, left_out, size, fetched, listing.lock)


def is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` forbids to ask the Hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def cached_listing(ref: RepoRef, cache: Cache) -> Listing:
    """What the cache knows of a revision.

    Raises:
        MissingFile: nothing.
    """
    commit = cache.commit(ref)
    listing = cache.find_listing(commit) if commit else None
    if listing is None:
        raise not_cached(ref)
    return listing


def not_cached(ref: RepoRef, entry: ListedFile | None = None) -> MissingFile:
    """What to say where the cache lacks something and the Hub may not be asked."""
    return MissingFile(
        "is not in the cache, and downloading is switched off", file=str(ref), key=entry.path if entry else None,
        hint=f"Fetch it where there is a network: {call('pull', ref)}",
    )  # fmt: skip


def into_cache(
    client: Client | None,
    listing: Listing,
    entries: Iterable[ListedFile],
    cache: Cache,
    force: bool = False,
    max_workers: int = 8,
    progress: Progress | None = None,
) -> int:
    """See to it that files of a commit are in the cache, whole; the number of bytes that had to be fetched.

    Args:
        client: None where the Hub may not be asked.

    Raises:
        MissingFile: they are not, and there is no client.
        SiHubError: as `si_hub.hub.pull.transfer.fetch_all`.
    """
    missing = [entry for entry in entries if force or not cache.holds(listing, entry)]
    if not missing:
        return 0
    if client is None:
        raise not_cached(RepoRef(listing.repo_id, listing.commit), missing[0])
    with translate_errors(cache.folder), transfer.make_stage(cache.folder) as folder:
        arrived = transfer.fetch_all(client, listing, missing, folder, max_workers=max_workers, progress=progress)
        for path, entry in zip(arrived, missing, strict=True):
            cache.place(path, listing, entry)
    return sum(entry.size for entry in missing)


def _pinned_listing(ref: RepoRef, cache: Cache, subfolder: str | None, weight_name: str | None) -> Listing | None:
    """The listing of a commit that is in the cache whole, for which nobody need be asked."""
    if ref.revision is None or not names.is_commit(ref.revision):
        return None
    listing = cache.known_listing(ref.revision)
    if listing is None:
        return None
    chosen, _ = select_safe(listing, subfolder, weight_name)
    return listing if all(cache.holds(listing, entry) for entry in chosen) else None


def _into_folder(
    client: Client | None,
    listing: Listing,
    entries: Iterable[ListedFile],
    folder: Path,
    cache: Cache,
    force: bool,
    max_workers: int,
    progress: Progress | None,
) -> int:
    """As `into_cache`, for a folder of the user's: files that he changed stay unless ``force`` says otherwise."""
    _check_inside(folder, PULLED)
    last = read_record(folder / PULLED)
    before = last.files if last else {}
    missing = [entry for entry in entries if force or not verify.is_as_listed(folder / entry.path, entry)]
    for entry in missing:
        _check_place(folder, entry, before.get(entry.path), force)
    cached = [] if force else [entry for entry in missing if cache.holds(listing, entry)]
    absent = [entry for entry in missing if entry not in cached]
    if absent and client is None:
        raise not_cached(RepoRef(listing.repo_id, listing.commit), absent[0])
    with translate_errors(folder), transfer.make_stage(folder) as stage:
        arrived = {entry: stage / f"cached{number}" for number, entry in enumerate(cached)}
        for entry, path in arrived.items():
            shutil.copyfile(cache.path(listing.commit, entry.path), path)
        if absent and client is not None:
            paths = transfer.fetch_all(client, listing, absent, stage, max_workers=max_workers, progress=progress)
            arrived |= dict(zip(absent, paths, strict=True))
        for entry, path in arrived.items():
            (folder / entry.path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, folder / entry.path)
        write_record(folder / PULLED, listing)
    return sum(entry.size for entry in absent)


def _check_place(folder: Path, entry: ListedFile, before: ListedFile | None, force: bool) -> None:
    """Whether a file may be written to, or replaced at, its place in a folder.

    Raises:
        FileAccessError: a link leads out of the folder; something else than an earlier pull's file is there.
    """
    _check_inside(folder, entry.path)
    target = folder / entry.path
    if not os.path.lexists(target) or (target.is_file() and force):
        return
    if target.is_dir():
        raise FileAccessError("is a folder, where a file is to be", file=target, hint="Move it away.")
    if before is None or not verify.is_as_listed(target, before):
        hint = f"Move it away, or replace it with {switch('force', python='force_download')}."
        raise FileAccessError("is not as it was pulled, and would be lost", file=target, hint=hint)


def _check_inside(folder: Path, name: str) -> None:
    parent = (folder / name).parent
    if not parent.resolve().is_relative_to(folder.resolve()):
        raise FileAccessError("a link leads out of the folder", file=parent)
