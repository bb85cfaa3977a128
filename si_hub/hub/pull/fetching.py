"""The one adapter of a repository that is to be loaded or converted: found, fetched and verified, or had in the cache.

Loading what is cached costs no request where the commit is pinned, and one where it is a branch or a tag.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from si_hub import format as file_format
from si_hub.errors import (
    FormatError,
    HubWarning,
    MissingFile,
    NetworkError,
    RateLimited,
    SiHubError,
    UsageError,
)
from si_hub.foreign import make_safe
from si_hub.hub import listing as listings
from si_hub.hub import names
from si_hub.hub.client import Client
from si_hub.hub.listing import ListedFile, Listing
from si_hub.hub.names import RepoRef
from si_hub.hub.pull.cache import Cache
from si_hub.hub.pull.pulling import cached_listing, into_cache, is_offline, not_cached
from si_hub.hub.pull.ranges import read_header
from si_hub.hub.pull.selection import Want, choose_weights, configs_beside, objection
from si_hub.report.progress import Progress
from si_hub.storage.header import read_safetensors
from si_hub.tokens import conceal
from si_hub.words import label

#: Fetched once with an adapter that was not cached: until the Hub knows si-hub, it counts downloads by this file.
COUNTED = "config.json"
#: Seconds before the only further attempt to reach the Hub, where the cache can answer instead.
IMPATIENT = (1.0,)


@dataclass(frozen=True, slots=True)
class Fetched:
    """An adapter's file, or the folder of its components' files.

    Attributes:
        path: in the cache.
        ours: whether it is a StyleInject file.
        lock: ``user/name@commit``.
        name: its path in the repository, ``""`` for the top folder.
    """

    path: Path
    ours: bool
    lock: str
    name: str


def fetch_adapter(
    repo_id: str,
    *,
    want: Want = "ours",
    revision: str | None = None,
    subfolder: str | None = None,
    weight_name: str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool | None = None,
    token: str | bool | None = None,
    progress: Progress | None = None,
) -> Fetched:
    """See to it that the adapter of a repository is in the cache, whole and verified.

    Where the Hub cannot be reached and the cache has the adapter of that revision, the cache answers, with a warning.

    Args:
        want: ours, somebody else's, or ours and else anybody's.
        repo_id, revision, subfolder, weight_name, cache_dir, force_download, local_files_only, token, progress: as
            for `si_hub.hub.pull.pull`.

    Raises:
        NotStyleInject: ``ours`` is wanted, and there is somebody else's.
        UsageError: several to choose from.
        SiHubError: as `si_hub.hub.pull.pull`.
    """
    token = conceal(token)
    search = _Search(names.parse_ref(repo_id, revision), want, subfolder, weight_name, cache_dir, token)
    if local_files_only or is_offline():
        if force_download:
            raise UsageError(
                "nothing can be fetched where nothing may be asked", key=label("force", python="force_download")
            )
        return search.in_cache()
    if force_download:
        return search.on_hub(search.ask(), force=True, progress=progress)
    if found := search.find_pinned():
        return found
    if not (cached := search.cache.commit(search.ref)):
        return search.on_hub(search.ask(), progress=progress)
    try:
        listing = search.ask(IMPATIENT)
    except (NetworkError, RateLimited) as error:
        problem = error.problem
    else:
        return search.on_hub(listing, progress=progress)
    try:
        found = search.in_cache()
    except SiHubError:
        return search.on_hub(search.ask(), progress=progress)
    said = make_safe(f"{search.ref}: {problem}; the cache has it as of commit {cached}", 1000)
    warnings.warn(said, HubWarning, stacklevel=2)
    return found


class _Search:
    """One adapter in one repository."""

    def __init__(
        self,
        ref: RepoRef,
        want: Want,
        subfolder: str | None,
        weight_name: str | None,
        cache_dir: str | Path | None,
        token: str | bool | None,
    ) -> None:
        self.ref, self.want = ref, want
        self.subfolder, self.weight_name = subfolder, weight_name
        self.cache, self.client = Cache(ref.repo_id, cache_dir), Client(token)

    def ask(self, waits: tuple[float, ...] | None = None) -> Listing:
        """The listing as the Hub has it, with what is known of the headers in it."""
        listing = listings.fetch_listing(self.client, self.ref, waits=waits)
        known = self.cache.known_listing(listing.commit)
        return replace(listing, ours=known.ours) if known else listing

    def on_hub(self, listing: Listing, *, force: bool = False, progress: Progress | None = None) -> Fetched:
        """What a listing has, fetched where the cache lacks it."""
        verdicts = dict(listing.ours)

        def is_ours(entry: ListedFile) -> bool:
            if entry.path not in verdicts:
                verdicts[entry.path] = self._ask_header(listing, entry)
            return verdicts[entry.path]

        weights = self._choose(listing, is_ours)
        wanted = [*weights, *configs_beside(listing, weights)]
        counted = listing.files.get(COUNTED)
        if counted and not objection(counted) and not all(self.cache.holds(listing, entry) for entry in weights):
            wanted.append(counted)
        into_cache(self.client, listing, dict.fromkeys(wanted), self.cache, force, progress=progress)
        self.cache.keep(replace(listing, ours=verdicts), self.ref.revision)
        return self._as_fetched(listing, weights)

    def in_cache(self) -> Fetched:
        """What the cache has, without a request; a file that it lacks and that nobody looked at is none of ours."""
        listing = cached_listing(self.ref, self.cache)
        weights = self._choose(listing, lambda entry: bool(self._verdict(listing, entry)))
        into_cache(None, listing, [*weights, *configs_beside(listing, weights)], self.cache)
        return self._as_fetched(listing, weights)

    def find_pinned(self) -> Fetched | None:
        """What the cache has of a pinned commit, if it is surely what the Hub would give."""
        listing = self.cache.known_listing(self.ref.revision or "")
        if listing is None:
            return None

        def is_ours(entry: ListedFile) -> bool:
            verdict = self._verdict(listing, entry)
            if verdict is None:
                raise not_cached(self.ref, entry)
            return verdict

        try:
            weights = self._choose(listing, is_ours)
        except MissingFile:
            return None
        needed = [*weights, *configs_beside(listing, weights)]
        return self._as_fetched(listing, weights) if all(self.cache.holds(listing, e) for e in needed) else None

    def _choose(self, listing: Listing, is_ours: Callable[[ListedFile], bool]) -> list[ListedFile]:
        return choose_weights(
            listing, is_ours, want=self.want, subfolder=self.subfolder, weight_name=self.weight_name,
            asked=str(self.ref),
        )  # fmt: skip

    def _ask_header(self, listing: Listing, entry: ListedFile) -> bool:
        """Whether a file is ours, by its header: in the cache, or else on the Hub."""
        verdict = self._verdict(listing, entry)
        if verdict is not None:
            return verdict
        try:
            path = self.cache.path(listing.commit, entry.path)
            return file_format.is_styleinject(read_header(self.client, listing, entry, path).file)
        except FormatError:
            return False

    def _verdict(self, listing: Listing, entry: ListedFile) -> bool | None:
        """Whether a file is ours, as far as this machine knows."""
        if entry.path in listing.ours:
            return listing.ours[entry.path]
        if not self.cache.holds(listing, entry):
            return None
        return _is_ours(self.cache.path(listing.commit, entry.path))

    def _as_fetched(self, listing: Listing, weights: list[ListedFile]) -> Fetched:
        top = (self.subfolder or "").strip("/")
        name = weights[0].path if self.weight_name is not None or weights[0].folder == top else top
        path = self.cache.path(listing.commit, name)
        return Fetched(path, path.is_file() and _is_ours(path), listing.lock, name)


def _is_ours(path: Path) -> bool:
    try:
        return file_format.is_styleinject(read_safetensors(path))
    except FormatError:
        return False
