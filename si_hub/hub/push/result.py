"""What a push did, for people and for scripts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from si_hub.foreign import join_safely, make_safe
from si_hub.hub.push.branch import MAIN
from si_hub.report.text import reasons, size_text


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did, or would do.

    Attributes:
        repo_id, commit, url: the repository, the commit that holds the adapter (None for a dry run that would make
            one), and where to look at it.
        branch: branch that was pushed to, or ``refs/pr/1``.
        changed: whether a commit was made, or would be.
        created: whether the repository was, or would be.
        sent: files that went: name in the repository → bytes.
        kept: files that the repository held already.
        left_out: files that stay on this machine: name → why.
        others: files of the repository that are not this push's, and stay as they are.
        load: the line that loads the adapter.
        notes: what else the user may want to know.
        pull_request: its address.
        tag: the tag that names the commit.
        dry_run: whether nothing was sent.
        card_diff: lines that change in the card.
    """

    repo_id: str
    commit: str | None
    url: str
    branch: str
    changed: bool
    created: bool
    sent: dict[str, int]
    kept: list[str]
    left_out: dict[str, str]
    others: list[str]
    load: str
    notes: tuple[str, ...] = ()
    pull_request: str | None = None
    tag: str | None = None
    dry_run: bool = False
    card_diff: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON data."""
        return {
            "repo_id": self.repo_id, "commit": self.commit, "url": self.url, "branch": self.branch,
            "changed": self.changed, "created": self.created, "sent": self.sent, "kept": self.kept,
            "left_out": self.left_out, "others": self.others, "load": self.load, "notes": list(self.notes),
            "pull_request": self.pull_request, "tag": self.tag, "dry_run": self.dry_run, "card_diff": self.card_diff,
        }  # fmt: skip

    def as_text(self) -> str:
        """The result as lines for people."""
        rows = [
            *(("sends" if self.dry_run else "sent", f"{name}  {size_text(size)}") for name, size in self.sent.items()),
            *(("has already", name) for name in self.kept),
            *(("stays here", line) for line in reasons(self.left_out)),
            *([("stays there", f"{len(self.others)} other files of the repository")] if self.others else []),
            *(("note", note) for note in self.notes),
            *([("tag", self.tag)] if self.tag else []),
            *([("request", self.pull_request)] if self.pull_request else []),
            *([("commit", self.commit)] if self.commit else []),
            ("url", self.url),
            ("load", self.load),
        ]
        diff = [f"    {make_safe(line, 300)}" for line in self.card_diff] if self.dry_run else []
        lines = [f"  {label:<12}{text}" for label, text in rows]
        return join_safely([self._headline(), *lines, *(["  card", *diff] if diff else [])])

    def _headline(self) -> str:
        where = f"{self.repo_id}@{self.branch}" if self.branch != MAIN else self.repo_id
        if not self.changed:
            return f"{where} has all of this already"
        made = " in a new repository" if self.created else ""
        return f"{where}: would be pushed{made}, nothing was sent" if self.dry_run else f"{where}: pushed{made}"
