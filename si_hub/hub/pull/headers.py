"""What is in a repository, by the headers of its weights: their data are never fetched."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from si_hub.hub import listing as listings
from si_hub.hub import names
from si_hub.hub.client import Client
from si_hub.hub.listing import ListedFile, Listing
from si_hub.hub.pull.cache import Cache
from si_hub.hub.pull.pulling import cached_listing, into_cache, is_offline, not_cached
from si_hub.hub.pull.ranges import read_header
from si_hub.hub.pull.selection import configs_beside, weights_to_look_at
from si_hub.storage.header import SafetensorsFile, read_safetensors
from si_hub.tokens import conceal


@dataclass(frozen=True, slots=True)
class RemoteHeader:
    """The header of one file of a repository.

    Attributes:
        name: ``user/name@commit/path``.
        file: its header; its path is where the file is or would be in the cache, beside its configuration.
        unread: single numbers of it (alphas) that were not read, and are zero instead.
    """

    name: str
    file: SafetensorsFile
    unread: frozenset[str] = frozenset()


def read_headers(
    repo_id: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
) -> list[RemoteHeader]:
    """The headers of a repository's weights: one ranged read each, none for what the cache has.

    Of PEFT's adapters the small configuration beside them is fetched too, without which they have no scale.

    Args:
        repo_id, revision, cache_dir, token: as for `si_hub.hub.pull.pull`.

    Raises:
        MissingEntry: no weights.
        UsageError: too many to look at.
        FormatError: a header that breaks a rule.
        SiHubError: as `si_hub.hub.pull.pull`.
    """
    token = conceal(token)
    ref = names.parse_ref(repo_id, revision)
    cache, client = Cache(ref.repo_id, cache_dir), Client(token)
    listing = cached_listing(ref, cache) if is_offline() else listings.fetch_listing(client, ref)
    weights = weights_to_look_at(listing)
    configs = configs_beside(listing, weights)
    into_cache(None if is_offline() else client, listing, configs, cache)
    return [_read_one(None if is_offline() else client, listing, entry, cache) for entry in weights]


def _read_one(client: Client | None, listing: Listing, entry: ListedFile, cache: Cache) -> RemoteHeader:
    name, path = f"{listing.lock}/{entry.path}", cache.path(listing.commit, entry.path)
    if cache.holds(listing, entry):
        return RemoteHeader(name, read_safetensors(path))
    if client is None:
        raise not_cached(names.RepoRef(listing.repo_id, listing.commit), entry)
    found = read_header(client, listing, entry, Path(name))
    return RemoteHeader(name, replace(found.file, path=path), found.unread)
