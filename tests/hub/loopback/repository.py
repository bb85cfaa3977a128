"""A model repository: commits, branches, tags and pull requests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.hub.loopback import git
from tests.hub.loopback.accounts import Token
from tests.hub.loopback.messages import Refusal


@dataclass(frozen=True)
class File:
    """One file of a commit.

    Attributes:
        oid: its git blob id; for a large file that of its pointer.
        sha256: of its bytes.
        size: of its bytes.
        large: whether it is kept by LFS.
    """

    oid: str
    sha256: str
    size: int
    large: bool


@dataclass(frozen=True)
class Commit:
    sha: str
    parent: str | None
    title: str
    description: str
    author: str
    time: int
    files: Mapping[str, File]


@dataclass
class Pull:
    """A pull request; its commits are those of ``refs/pr/{number}``."""

    number: int
    title: str
    description: str
    author: str
    base: str
    head: str
    merged: bool = False


@dataclass
class Repository:
    id: str
    private: bool = False
    gated: bool = False
    created: int = 0
    admitted: list[str] = field(default_factory=list)
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: list[Pull] = field(default_factory=list)

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    def resolve(self, revision: str) -> Commit:
        """The commit of a branch, tag, ``refs/…`` or 40 hex digits.

        Raises:
            Refusal: 404 RevisionNotFound.
        """
        sha = self.heads().get(revision) or self.tags.get(revision.removeprefix("refs/tags/"))
        sha = sha or (revision if revision in self.commits else None)
        if sha is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[sha]

    def heads(self) -> dict[str, str]:
        """Every name that can be committed to, with its commit."""
        long = {f"refs/heads/{name}": sha for name, sha in self.branches.items()}
        return {f"refs/pr/{pull.number}": pull.head for pull in self.pulls} | long | self.branches

    def advance(self, name: str, sha: str) -> None:
        """Let a branch or ``refs/pr/N`` point to a commit."""
        if pull := re.fullmatch(r"refs/pr/(\d+)", name):
            self.pull(int(pull[1])).head = sha
        else:
            self.branches[name.removeprefix("refs/heads/")] = sha

    def pull(self, number: int) -> Pull:
        for pull in self.pulls:
            if pull.number == number:
                return pull
        raise Refusal(404, f"Discussion {number} not found")

    def commit(
        self, files: Mapping[str, File], *, parent: str | None, title: str, description: str, author: str, time: int
    ) -> Commit:
        """Add a commit, which no name points to yet."""
        tree = git.tree_ids({path: file.oid for path, file in files.items()})[""]
        message = f"{title}\n\n{description}" if description else title
        sha = git.commit_id(tree, parent, author, time, message)
        self.commits[sha] = Commit(sha, parent, title, description, author, time, dict(files))
        return self.commits[sha]

    def history(self, revision: str) -> list[Commit]:
        """The commit of a revision and those before it, newest first."""
        found, sha = [], self.resolve(revision).sha
        while True:
            found.append(self.commits[sha])
            if (parent := found[-1].parent) is None:
                return found
            sha = parent

    def visible(self, token: Token | None) -> bool:
        return not self.private or (token is not None and token.belongs(self.id))

    def admits(self, token: Token | None) -> bool:
        """Whether the files may be read: always, unless the repository is gated."""
        return not self.gated or (token is not None and (token.belongs(self.id) or token.account in self.admitted))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Repository:
        commits = {
            sha: Commit(**{**commit, "files": {path: File(**file) for path, file in commit["files"].items()}})
            for sha, commit in stored["commits"].items()
        }
        return cls(**{**stored, "commits": commits, "pulls": [Pull(**pull) for pull in stored["pulls"]]})
