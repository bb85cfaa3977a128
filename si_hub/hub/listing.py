"""One commit's files with their sizes and hashes: what is fetched is checked against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from si_hub.errors import BadListing
from si_hub.hub.client import TIMEOUT, About, Client
from si_hub.hub.names import RepoRef, is_commit, is_sha256, safe_commit, safe_path
from si_hub.storage.header import SIZE_LIMIT

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

Algorithm = Literal["sha256", "git-sha1"]


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file of a commit.

    Attributes:
        path: its name in the repository, a safe one.
        size: in bytes.
        algorithm, digest: SHA-256 of the bytes for large files, git's SHA-1 (of ``blob {size}\\0`` and the bytes) for
            small ones; both None where only a cache without links knows the file.
    """

    path: str
    size: int
    algorithm: Algorithm | None
    digest: str | None

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """The path without its last part, ``""`` at the top."""
        return self.path.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of one commit.

    Attributes:
        repo_id, commit: whose; the commit as 40 hex digits.
        files: by path.
        ours: of safetensors files whose header has been looked at, whether it carries a StyleInject document.
    """

    repo_id: str
    commit: str
    files: Mapping[str, ListedFile]
    ours: Mapping[str, bool] = field(default_factory=dict)

    @property
    def lock(self) -> str:
        """``user/name@commit``, which names these bytes for ever."""
        return f"{self.repo_id}@{self.commit}"

    def as_dict(self) -> dict[str, Any]:
        """The listing as JSON data; `listing_from_dict` reads it."""
        return {
            "repo_id": self.repo_id,
            "commit": self.commit,
            "files": {
                path: {"size": entry.size, "algorithm": entry.algorithm, "digest": entry.digest}
                for path, entry in self.files.items()
            },
            "ours": dict(self.ours),
        }


def listing_from_dict(data: Any) -> Listing:
    """The listing that `Listing.as_dict` wrote.

    Raises:
        BadListing, KeyError, TypeError, AttributeError: it did not.
    """
    repo_id, commit = data["repo_id"], safe_commit(data["commit"], data["repo_id"])
    files = {
        path: _entry(path, held["size"], held["algorithm"], held["digest"], repo_id)
        for path, held in data["files"].items()
    }
    return Listing(repo_id, commit, files, {path: bool(ours) for path, ours in data["ours"].items() if path in files})


def fetch_listing(client: Client, ref: RepoRef, *, waits: tuple[float, ...] | None = None) -> Listing:
    """Ask the Hub, in one request, which commit a revision is and what is in it.

    Raises:
        BadListing: a commit or hash that is not hex, a size below zero, a name that leads out of the folder.
        SiHubError: as `Client.call`.
    """
    info = client.call(
        client.api.model_info, ref.repo_id, revision=ref.revision, files_metadata=True, timeout=TIMEOUT,
        about=About(ref.repo_id, ref.revision), waits=waits,
    )  # fmt: skip
    listing = listing_from_info(info, ref.repo_id)
    if ref.revision is not None and is_commit(ref.revision) and listing.commit != ref.revision:
        raise BadListing("another commit than asked for", file=str(ref), expected=ref.revision, found=listing.commit)
    return listing


def listing_from_info(info: ModelInfo, repo_id: str) -> Listing:
    """The listing in an answer of `HfApi.model_info` with ``files_metadata=True``.

    Raises:
        BadListing: see `fetch_listing`.
    """
    files: dict[str, ListedFile] = {}
    for sibling in info.siblings or ():
        path = safe_path(sibling.rfilename, repo_id)
        if path in files:
            raise BadListing("the same name twice", file=repo_id, key=path)
        if sibling.lfs is not None:
            files[path] = _entry(path, sibling.lfs.size, "sha256", sibling.lfs.sha256, repo_id)
        else:
            files[path] = _entry(path, sibling.size, "git-sha1", sibling.blob_id, repo_id)
    return Listing(repo_id, safe_commit(info.sha, repo_id), files)


def _entry(path: str, size: Any, algorithm: Any, digest: Any, repo_id: str) -> ListedFile:
    if type(size) is not int or not 0 <= size < SIZE_LIMIT:
        raise BadListing("a file's size is no number", file=repo_id, key=path, found=repr(size)[:40])
    if not _is_digest(algorithm, digest):
        expected = f"hex digits of {algorithm}"
        raise BadListing("a file's hash is none", file=repo_id, key=path, expected=expected, found=digest)
    return ListedFile(safe_path(path, repo_id), size, algorithm, digest)


def _is_digest(algorithm: Any, digest: Any) -> bool:
    if algorithm is None or not isinstance(digest, str):
        return algorithm is None and digest is None
    return is_sha256(digest) if algorithm == "sha256" else algorithm == "git-sha1" and is_commit(digest)
