"""A local adapter → a repository of the Hub, in one commit, with its card: what ``si-hub push`` does."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from si_hub.errors import ConflictError, FileAccessError, MissingRepository, UsageError
from si_hub.hub.card import card
from si_hub.hub.client import About, Client
from si_hub.hub.names import check_revision, names_branch_or_tag, parse_ref
from si_hub.hub.pull.cache import read_record
from si_hub.hub.pull.pulling import PULLED
from si_hub.hub.push.branch import MAIN, RepoBranch, is_same, look_at_branch, small_file, survey_branch
from si_hub.hub.push.content import CONFIG, README, Content, Outgoing, collect_content, is_our_config, prepare_file
from si_hub.hub.push.memory import Memory, key_of, read_memory
from si_hub.hub.push.result import Pushed
from si_hub.hub.push.sending import Sender, Sent, conflict
from si_hub.hub.push.user import ask_user
from si_hub.storage.access import tell_access_errors
from si_hub.tokens import conceal
from si_hub.words import call, label, switch

MESSAGE = "Push the adapter with si-hub"
#: A config.json beyond this is none of ours.
_CONFIG_LIMIT = 1_000_000
#: Pull requests that are looked into for a lost one.
_LOOKED_AT = 20


@tell_access_errors()
def push(
    path: str | Path = ".",
    repo_id: str | None = None,
    *,
    revision: str | None = None,
    private: bool = False,
    create_pr: bool = False,
    commit_message: str | None = None,
    tag: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    token: str | bool | None = None,
    endpoint: str | None = None,
    bars: bool = True,
) -> Pushed:
    """Push an adapter with its card and pictures, in one commit; the same content again makes none.

    The adapter is checked whole, and the right to write asked for, before a byte is sent. Where the branch has moved
    since this folder's last push, or holds another adapter that this folder has never seen, it is left as it is.
    The folder remembers repository and commit in ``.si-hub.json``; never the token. A folder that was pulled has seen
    what was pulled.

    Args:
        path: an adapter's file, or a folder with one.
        repo_id: ``user/name``, or ``name`` for one of the user's own; the remembered one by default.
        revision: the branch; made from main where it is missing.
        private: make the repository private, if it is yet to be made; refuse a public one.
        create_pr: open a pull request to main instead of pushing to it.
        commit_message: first line and, after an empty line, the rest.
        tag: a tag for the commit.
        force: put the commit on top of whatever the branch holds now.
        dry_run: only say what would be done.
        token: a token; the one of `hf auth login` by default.
        endpoint: address of the Hub.
        bars: whether huggingface_hub may draw its progress bars.

    Raises:
        UsageError: no repository named, several adapters, options that contradict each other.
        FormatError, ChecksumError: a broken adapter; a card that cannot be renewed; other bytes at the Hub than sent.
        ConflictError: the repository changed under the push, or holds what this folder has not seen.
        AuthError, MissingRepository, RateLimited, NetworkError: what the Hub answers.
        MissingFile, FileAccessError: a file of this machine.
    """
    token = conceal(token)
    _check_options(revision, create_pr, tag, commit_message)
    content = collect_content(path)
    memory = read_memory(content.path.parent)
    pulled = read_record(content.path.parent / PULLED)
    given = repo_id or memory.repository(content.path) or (pulled.repo_id if pulled else None)
    if given is None:
        hint = f"Name it once: {call('push', path, 'user/name')}"
        raise UsageError("no repository is remembered here yet", file=content.path, hint=hint)
    ref = parse_ref(given, revision)
    client = Client(token, endpoint)
    user = ask_user(client, ref.repo_id)
    whole = user.whole_id(ref.repo_id)
    target = survey_branch(client, whole, ref.revision, create_pr=create_pr, private=private)
    if create_pr:
        user.check_may_propose(whole)
    if not target.exists:
        user.check_may_create(whole)
    seen = pulled.commit if pulled is not None and pulled.repo_id == whole else None
    one = _Push(client, content, memory, target, private, create_pr, commit_message or MESSAGE, tag, force, seen)
    with _bars(bars):
        return one.run(dry_run)


@contextmanager
def _bars(drawn: bool) -> Iterator[None]:
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if drawn or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@dataclass(slots=True)
class _Push:
    """One push: its parts in the order of `run`."""

    client: Client
    content: Content
    memory: Memory
    target: RepoBranch
    private: bool
    create_pr: bool
    message: str
    tag: str | None
    force: bool
    pulled: str | None
    notes: list[str] = field(default_factory=list)

    def run(self, dry_run: bool) -> Pushed:
        created = not self.target.exists
        files, old_card = self.files()
        self.check_tag(files)
        changed = self.target.pick_differing(files)
        if changed and (request := self.own_request(files)):
            if not dry_run:
                self.remember(request)
            return replace(self.result(files, [], created, request, []), dry_run=dry_run)
        if changed:
            self.check_parent(changed)
        if dry_run:
            self.sender.ask_objections(changed)
            return self.result(files, changed, created, None, _difference(old_card, files))
        if created or self.target.new_branch:
            # Before anything is made: a refused commit would leave an empty repository or branch behind.
            self.sender.ask_objections(changed)
            start = self.target.head
            self.make_place()
            changed = self.target.pick_differing(files)
            if changed and self.target.head != start:
                self.check_parent(changed)
        if changed:
            self.memory.pending[self.key] = {file.name: file.digest.text for file in files}
            self.write_memory()
        done = self.sender.send(files, changed) if changed else Sent(str(self.target.head), self.target.branch)
        self.remember(done)
        if self.tag is not None:
            self.sender.tag(self.tag, done.commit)
        return self.result(files, changed, created, done, _difference(old_card, files))

    def files(self) -> tuple[list[Outgoing], str]:
        """What goes, the card rendered; and the card as the repository has it."""
        content, target = self.content, self.target
        raw = small_file(self.client, target, README, card.CARD_LIMIT)
        if raw is None and README in target.files:
            raise UsageError("the repository's card is too long to be renewed", file=target.repo_id, key=README)
        there = card.decode(raw or b"", f"{target.repo_id}: {README}")
        existing = there if content.readme is None else content.readme
        names = [sample.name for sample in content.samples]
        rendered = card.render(existing, content.adapter, target.repo_id, names, content.weights.digest.size)
        self.notes += rendered.notes
        files = [content.weights, prepare_file(README, rendered.text.encode()), *content.samples]
        config = target.files.get(CONFIG)
        if config is None or is_same(config, content.config) or self.is_our_config():
            files.append(content.config)
        else:
            self.notes.append(f"the repository has a {CONFIG} of its own, which stays")
        return files, there

    def is_our_config(self) -> bool:
        raw = small_file(self.client, self.target, CONFIG, _CONFIG_LIMIT)
        return raw is not None and is_our_config(raw)

    @property
    def sender(self) -> Sender:
        return Sender(self.client, self.target, self.create_pr, self.message)

    @property
    def key(self) -> str:
        branch = self.target.branch
        return key_of(self.client.endpoint, self.target.repo_id, f"{branch} request" if self.create_pr else branch)

    def check_parent(self, changed: Sequence[Outgoing]) -> None:
        """Refuse to put the commit on top of one that this folder has not seen.

        Raises:
            ConflictError: the branch has moved since the last push, or holds other files of these names.
        """
        target, known = self.target, self.memory.commits.get(self.key)
        if self.force or self.create_pr or target.new_branch or target.head in (None, known, self.pulled):
            return
        pending = self.memory.pending.get(self.key)
        if pending and all(_listed_hash(target, name) in text.split() for name, text in pending.items()):
            return
        if known is not None:
            raise conflict(target, f"{target.branch} has moved since the last push from here", known, target.head)
        # A card without words of this folder is the repository's own, renewed.
        ours = {CONFIG} | ({README} if self.content.readme is None else set())
        if theirs := [file.name for file in changed if file.name in target.files and file.name not in ours]:
            problem = "holds other files than this folder, which has not seen it yet"
            raise conflict(target, problem, None, ", ".join(theirs))

    def check_tag(self, files: Sequence[Outgoing]) -> None:
        """
        Raises:
            ConflictError: the tag names another commit already.
        """
        there = self.target.tags.get(self.tag or "")
        if there is not None and (there != self.target.head or self.target.pick_differing(files)):
            raise ConflictError(
                "the tag names another commit already", file=self.target.repo_id, key=self.tag, found=there,
                hint="Choose another tag.",
            )  # fmt: skip

    def make_place(self) -> None:
        """The repository and the branch, where they are missing: both empty of what is not there yet."""
        api, target = self.client.api, self.target
        about = About(target.repo_id, target.branch)
        if not target.exists:
            self.client.call(
                api.create_repo, target.repo_id, private=True if self.private else None, exist_ok=True, about=about
            )
            target = survey_branch(self.client, target.repo_id, target.branch, create_pr=False, private=self.private)
            if not target.exists:
                raise MissingRepository("was made, and is not there", file=target.repo_id, hint="Run it again.")
        self.target = target
        if target.new_branch:
            # Remembered first: a push that dies between branch and commit knows the branch as its own.
            self.memory.commits[self.key] = str(target.head)
            self.write_memory()
            self.client.call(
                api.create_branch,
                target.repo_id,
                branch=target.branch,
                revision=target.head,
                exist_ok=True,
                about=about,
            )
            self.target = look_at_branch(self.client, target)

    def own_request(self, files: Sequence[Outgoing]) -> Sent | None:
        """The pull request that this folder has opened last, where it holds the same already.

        Where a push died, it may be one of the newest, whose answer never came.
        """
        if not self.create_pr or self.force:
            return None
        newest = sorted(self.target.pulls, key=lambda ref: (len(ref), ref))[-_LOOKED_AT:]
        refs = newest if self.key in self.memory.pending else [self.memory.requests.get(self.key, "")]
        for ref in reversed(refs):
            commit = self.target.pulls.get(ref)
            if commit is not None and self.sender.holds(commit, files):
                self.notes.append(f"{ref} holds this already; {switch('force')} opens another")
                return self.sender.request(ref, commit)
        return None

    def remember(self, done: Sent) -> None:
        self.memory.adapters[self.content.path.name] = self.target.repo_id
        self.memory.pending.pop(self.key, None)
        if done.pull_request:
            self.memory.requests[self.key] = done.branch
        else:
            self.memory.commits[self.key] = done.commit
        self.write_memory()

    def write_memory(self) -> None:
        try:
            self.memory.write(self.content.path.parent)
        except FileAccessError as error:
            note = f"nothing could be remembered for the next push: {error}"
            self.notes += [] if note in self.notes else [note]

    def result(
        self, files: Sequence[Outgoing], changed: Sequence[Outgoing], created: bool, done: Sent | None, diff: list[str]
    ) -> Pushed:
        target, endpoint = self.target, self.client.endpoint
        branch = done.branch if done else target.branch
        commit = done.commit if done else None if changed else target.head
        revision = self.tag or (branch if branch != MAIN else None)
        *_, load = card.load_lines(target.repo_id, None, revision)
        url = f"{endpoint}/{target.repo_id}" + (f"/commit/{commit}" if commit else "")
        names = {file.name for file in files}
        return Pushed(
            target.repo_id, commit, url, branch, bool(changed), created,
            {file.name: file.digest.size for file in changed},
            sorted(names - {file.name for file in changed}), self.content.left_out,
            sorted(target.files.keys() - names - {".gitattributes"}), load, tuple(self.notes),
            done.pull_request if done else None, self.tag, done is None, diff,
        )  # fmt: skip


def _check_options(revision: str | None, create_pr: bool, tag: str | None, message: str | None) -> None:
    if create_pr and tag:
        raise UsageError(
            "a tag for a pull request", key=label("tag"), hint="Name the commit after the request is merged."
        )
    if create_pr and revision not in (None, MAIN):
        raise UsageError(
            "a pull request goes to main", key=label("revision"), found=revision, hint="Leave one of them out."
        )
    if message is not None and not message.partition("\n")[0].strip():
        raise UsageError("the commit message has no first line", key=label("commit_message"))
    if tag is not None and not names_branch_or_tag(check_revision(tag)):
        raise UsageError(
            "is no name for a tag", key=label("tag"), expected="a name such as v1", found=tag,
            hint="Leave out refs/tags/, and name no branch, pull request or commit.",
        )  # fmt: skip


def _listed_hash(target: RepoBranch, name: str) -> str:
    """The hash of a file of the repository, as `Digest.text` has it."""
    there = target.files.get(name)
    return f"{there.algorithm}:{there.digest}" if there else ""


def _difference(old: str, files: Sequence[Outgoing]) -> list[str]:
    """The lines that change in the card."""
    new = next(file.source for file in files if file.name == README)
    after = new.decode().splitlines() if isinstance(new, bytes) else []
    return list(difflib.unified_diff(old.splitlines(), after, "the Hub's", "renewed", lineterm="", n=1))
