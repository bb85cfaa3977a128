"""The commit and the tag of a push: carried out once, however often an answer is lost, and looked at afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from si_hub.errors import BadListing, CardError, ChecksumError, ConflictError, MissingRevision, NetworkError
from si_hub.foreign import make_safe
from si_hub.hub.client import TIMEOUT, About, Client
from si_hub.hub.push.branch import RepoBranch, holds_all, listing_at, look_at_branch
from si_hub.hub.push.content import README, Outgoing
from si_hub.words import call, switch

IGNORES = ".gitignore"
#: How huggingface_hub begins what the Hub says of a card's metadata.
_NO_CARD = "Invalid metadata in README.md."


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a push: the commit, the branch or ``refs/pr/1`` that it is on, and a pull request's address."""

    commit: str
    branch: str
    pull_request: str | None = None


@dataclass(frozen=True, slots=True)
class Sender:
    """One commit, on top of the head that `target` was seen with.

    Attributes:
        client: the Hub.
        target: the branch as it was looked at; its head is the commit's parent.
        create_pr: whether the commit is to be proposed as a pull request.
        message: first line and, after an empty line, the rest.
    """

    client: Client
    target: RepoBranch
    create_pr: bool
    message: str

    def send(self, files: Sequence[Outgoing], changed: Sequence[Outgoing]) -> Sent:
        """Commit those of ``files`` that ``changed`` names; afterwards the repository holds all of them.

        Raises:
            ConflictError: the branch moved meanwhile.
            ChecksumError: the commit has other bytes than were sent.
            CardError: the Hub does not take the card's metadata.
            FileAccessError: a file was changed since it was checked.
            SiHubError: see `Client.call`.
        """
        for file in changed:
            file.check_unchanged()
        about = About(self.target.repo_id, self.target.branch)

        def find_settled() -> Sent | None:
            return self.find_settled(files)

        try:
            # A commit on a branch names its parent, so a late one and its repetition cannot both be made.
            once = f"/{self.target.repo_id}/commit/" if self.create_pr else None
            done = self.client.call(self.commit, changed, about=about, settled=find_settled, once=once)
        except (ConflictError, NetworkError) as error:
            found = self.find_settled(files)
            if found is None and isinstance(error, ConflictError):
                raise conflict(self.target, f"{self.target.branch} has moved while this was being pushed") from None
            if found is None:
                raise
            done = found
        return self.confirm(done, files)

    def confirm(self, done: Sent, files: Sequence[Outgoing]) -> Sent:
        """The commit that holds what was sent: the one that the answer names, or the one that is there.

        Raises:
            ChecksumError: neither does.
        """
        with suppress(MissingRevision, BadListing):
            if self.holds(done.commit, files):
                return done
        if (found := self.find_settled(files)) is not None:
            return found
        raise self._other_files(done.commit)

    def commit(self, changed: Sequence[Outgoing]) -> Sent:
        """One attempt, for `Client.call`."""
        from huggingface_hub import CommitOperationAdd

        title, _, rest = self.message.partition("\n")
        refused = ""
        try:
            info = self.client.api.create_commit(
                self.target.repo_id,
                # Made anew for every attempt: they remember what they have sent.
                [CommitOperationAdd(file.name, file.source) for file in changed],
                commit_message=title,
                commit_description=rest.strip(),
                revision=self.target.branch,
                parent_commit=self.target.head,
                create_pr=self.create_pr,
            )
            return Sent(info.oid, info.pr_revision or self.target.branch, info.pr_url)
        except ValueError as error:
            if not str(error).startswith(_NO_CARD):
                raise
            refused = str(error).removeprefix(_NO_CARD)
        # Outside of the handler, whose exception holds the request with the token.
        raise self._bad_card(refused)

    def ask_objections(self, changed: Sequence[Outgoing]) -> None:
        """Ask what a commit of these files would be refused for, and commit nothing.

        Raises:
            CardError: the Hub does not take the card's metadata.
            ChecksumError: the repository's .gitignore keeps one of the files out.
            SiHubError: see `Client.call`.
        """
        self._ask_card(changed)
        # For a pull request no right to write was asked for: the same question says whether it may be opened.
        if IGNORES in self.target.files or (changed and self.create_pr):
            about = About(self.target.repo_id, self.target.branch)
            ignored = self.client.call(self._list_ignored, changed, about=about)
            if ignored:
                raise self._other_files(", ".join(ignored))

    def _ask_card(self, files: Sequence[Outgoing]) -> None:
        card = next((file.source for file in files if file.name == README and isinstance(file.source, bytes)), None)
        if card is None:
            return
        refused = self.client.call(self._objection, card.decode(), about=About(self.target.repo_id, entry=README))
        if refused is not None:
            raise self._bad_card(refused)

    def _objection(self, card: str) -> str | None:
        """What the Hub has against a card's metadata, for `Client.call`."""
        from huggingface_hub.utils import get_session, hf_raise_for_status

        response = get_session().post(
            f"{self.client.endpoint}/api/validate-yaml", json={"content": card, "repoType": "model"},
            headers=self.client.headers(), timeout=TIMEOUT,
        )  # fmt: skip
        if response.status_code != 400:
            hf_raise_for_status(response)
            return None
        return "\n".join(f"- {error.get('message')}" for error in response.json().get("errors", ()))

    def _list_ignored(self, files: Sequence[Outgoing]) -> list[str]:
        """The files that a commit on the target's head would leave out, for `Client.call`."""
        from huggingface_hub.utils import get_session, hf_raise_for_status

        asked = [{"path": file.name, "size": file.digest.size, "sample": ""} for file in files]
        response = get_session().post(
            f"{self.client.endpoint}/api/models/{self.target.repo_id}/preupload/{self.target.head}",
            json={"files": asked}, params={"create_pr": "1"} if self.create_pr else None,
            headers=self.client.headers(), timeout=TIMEOUT,
        )  # fmt: skip
        hf_raise_for_status(response)
        return [file["path"] for file in response.json()["files"] if file.get("shouldIgnore")]

    def _other_files(self, found: str) -> ChecksumError:
        ignores = IGNORES in self.target.files
        return ChecksumError(
            "the commit holds other files than were sent", file=self.target.repo_id, key=found,
            hint=f"The repository's {IGNORES} keeps some of them out." if ignores else "Run it again.",
        )  # fmt: skip

    def _bad_card(self, refused: str) -> CardError:
        words = make_safe(self.client.mask(refused), 300, prose=True)
        return CardError("the Hub does not take the front matter", file=README, found=words, hint="Correct the key.")

    def find_settled(self, files: Sequence[Outgoing]) -> Sent | None:
        """What became of a commit whose answer was lost: the same, if it is there."""
        now = look_at_branch(self.client, self.target)
        if not self.create_pr:
            applied = now.head is not None and now.head != self.target.head and not now.pick_differing(files)
            return Sent(str(now.head), now.branch) if applied else None
        opened = (item for item in now.pulls.items() if item[0] not in self.target.pulls)
        return next((self.request(ref, commit) for ref, commit in opened if self.holds(commit, files)), None)

    def request(self, ref: str, commit: str) -> Sent:
        """A pull request as what was sent."""
        number = ref.rpartition("/")[2]
        return Sent(commit, ref, f"{self.client.endpoint}/{self.target.repo_id}/discussions/{number}")

    def holds(self, commit: str, files: Sequence[Outgoing]) -> bool:
        """Whether a commit has all of these files."""
        return holds_all(listing_at(self.client, self.target.repo_id, commit), files)

    def tag(self, name: str, commit: str) -> None:
        """Tag a commit; one that is tagged so already is left.

        Raises:
            ConflictError: the tag names another commit.
        """
        if self.target.tags.get(name) == commit:
            return

        def there() -> str | None:
            return look_at_branch(self.client, self.target).tags.get(name)

        def make() -> str:
            self.client.api.create_tag(self.target.repo_id, tag=name, revision=commit)
            return commit

        try:
            named = self.client.call(make, about=About(self.target.repo_id, name), settled=there)
        except (ConflictError, NetworkError):
            if (named := there() or "") != commit:
                raise
        if named != commit:
            raise ConflictError("the tag names another commit", file=self.target.repo_id, key=name, found=named)


def conflict(target: RepoBranch, problem: str, expected: str | None = None, found: str | None = None) -> ConflictError:
    """What to say where a branch holds what the pusher has not seen."""
    return ConflictError(
        problem, file=target.repo_id, key=target.branch, expected=expected, found=found,
        hint=f"Take what is there: {call('pull', target.repo_id, local_dir='FOLDER')}; or push on top of it with "
        f"{switch('force')}.",
    )  # fmt: skip
