"""Where a push goes: the repository as it is, and whether this token may write to it. Nothing is changed here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from si_hub.errors import MissingRepository, UsageError
from si_hub.hub import listing
from si_hub.hub.client import Client
from si_hub.hub.listing import ListedFile, Listing
from si_hub.hub.names import RepoRef, names_branch_or_tag, safe_commit
from si_hub.hub.pull import transfer
from si_hub.hub.push.content import Outgoing
from si_hub.words import option, switch

MAIN = "main"


@dataclass(frozen=True, slots=True)
class RepoBranch:
    """A branch of a repository.

    Attributes:
        repo_id: ``user/name``.
        branch: where the commit goes, or a pull request starts.
        exists: whether the repository does.
        private: whether only its owners see it; None where that was not asked.
        new_branch: whether the branch is yet to be made, from main.
        head: the commit that is to be the parent; None where there is none yet.
        files: what is in that commit.
        tags: tag → commit.
        pulls: pull request, ``refs/pr/1`` → commit.
    """

    repo_id: str
    branch: str
    exists: bool
    private: bool | None = None
    new_branch: bool = False
    head: str | None = None
    files: Mapping[str, ListedFile] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    pulls: Mapping[str, str] = field(default_factory=dict)

    def pick_differing(self, files: Iterable[Outgoing]) -> list[Outgoing]:
        """Those that the repository does not hold, or holds otherwise."""
        return [file for file in files if not is_same(self.files.get(file.name), file)]


def is_same(there: ListedFile | None, here: Outgoing) -> bool:
    """Whether the repository's file has the same bytes."""
    if there is None or there.size != here.digest.size:
        return False
    return there.digest == (here.digest.sha256 if there.algorithm == "sha256" else here.digest.git_sha1)


def holds_all(found: Listing, files: Iterable[Outgoing]) -> bool:
    """Whether a commit has all of these files."""
    return all(is_same(found.files.get(file.name), file) for file in files)


def survey_branch(client: Client, repo_id: str, revision: str | None, *, create_pr: bool, private: bool) -> RepoBranch:
    """Look at a repository before anything is sent to it.

    Args:
        client: the Hub.
        repo_id: ``user/name``.
        revision: a branch, or a pull request's ``refs/pr/1``; None for main.
        create_pr: whether a pull request is wanted, for which no right to write is needed.
        private: whether the repository has to be private.

    Raises:
        AuthError: no right to write.
        MissingRepository: nothing to make a pull request to.
        UsageError: a tag or commit instead of a branch; a public repository where a private one was asked for.
        SiHubError: see `Client.call`.
    """
    branch = revision or MAIN
    try:
        client.call(client.api.auth_check, repo_id, write=not create_pr, about=repo_id)
    except MissingRepository:
        if create_pr:
            raise
        # Before anything is made: the branch would be refused when the repository is there already.
        if not names_branch_or_tag(branch):
            raise _no_branch(repo_id, branch) from None
        return RepoBranch(repo_id, branch, exists=False, new_branch=branch != MAIN)
    hidden = client.call(client.api.model_info, repo_id, about=repo_id).private if private else None
    if hidden is False:
        raise UsageError(
            f"is public, and {switch('private')} was asked for", file=repo_id,
            hint=f"Make it private first: {client.endpoint}/{repo_id}/settings",
        )  # fmt: skip
    return look_at_branch(client, RepoBranch(repo_id, branch, exists=True, private=hidden))


def look_at_branch(client: Client, target: RepoBranch) -> RepoBranch:
    """``target`` with what its repository holds now.

    Raises:
        UsageError: its branch is a tag or a commit.
        SiHubError: see `Client.call`.
    """
    repo_id, branch = target.repo_id, target.branch
    refs = client.call(client.api.list_repo_refs, repo_id, include_pull_requests=True, about=repo_id)
    branches = {ref.name: safe_commit(ref.target_commit, repo_id) for ref in refs.branches}
    tags = {ref.name: ref.target_commit for ref in refs.tags}
    pulls = {ref.ref: safe_commit(ref.target_commit, repo_id) for ref in refs.pull_requests or ()}
    known = branches | pulls
    if branch not in known and (branch in tags or not names_branch_or_tag(branch)):
        raise _no_branch(repo_id, branch)
    found = listing_at(client, repo_id, known.get(branch) or branches.get(MAIN) or MAIN)
    new = branch not in known and branch != MAIN
    return RepoBranch(repo_id, branch, True, target.private, new, found.commit, found.files, tags, pulls)


def _no_branch(repo_id: str, branch: str) -> UsageError:
    return UsageError(
        "is no branch", file=repo_id, key=branch, hint=f"Push to a branch, and name a tag with {option('tag')}."
    )


def listing_at(client: Client, repo_id: str, revision: str) -> Listing:
    """What is in a commit, or in a branch's last.

    Raises:
        BadListing, SiHubError: see `si_hub.hub.listing.fetch_listing`.
    """
    return listing.fetch_listing(client, RepoRef(repo_id, revision))


def small_file(client: Client, target: RepoBranch, name: str, limit: int) -> bytes | None:
    """A small file of the repository; None where it has none of that name, or a larger one.

    Raises:
        ChecksumError: bytes that stay other than the Hub lists.
        SiHubError: see `Client.call`.
    """
    there = target.files.get(name)
    if there is None or target.head is None or there.size > limit:
        return None
    with TemporaryDirectory(prefix="si-hub-") as folder:
        found = Listing(target.repo_id, target.head, target.files)
        (path,) = transfer.fetch_all(client, found, [there], Path(folder))
        return path.read_bytes()
