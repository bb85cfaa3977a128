"""`push --dry-run` refuses what the push would refuse, for the same reason, and sends nothing where the push would."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from si_hub.cli import main
from tests.hub.loopback import LoopbackHub, faults
from tests.places import GOLDEN

STYLE = "user/style"


@dataclass
class World:
    """A Hub, and a folder with one adapter that was never pushed."""

    hub: LoopbackHub
    folder: Path

    def run(self, *arguments: str, token: str = "writer") -> tuple[int, dict[str, Any]]:
        """Exit code and JSON of ``si-hub push FOLDER …``."""
        command = ["push", str(self.folder), *arguments, "--token", self.hub.token(token), "--json"]
        result = CliRunner().invoke(main, command)
        return result.exit_code, json.loads(result.stdout)


@pytest.fixture
def world(client: LoopbackHub, tmp_path: Path, waits: list[float]) -> World:
    folder = tmp_path / "ink"
    folder.mkdir()
    shutil.copy(GOLDEN / "one_branch.safetensors", folder / "ink.safetensors")
    return World(client, folder)


def nobody_there(world: World) -> None:
    """The repository is yet to be made."""


def holds_another_adapter(world: World) -> None:
    world.hub.repo(STYLE).commit({"styleinject.safetensors": b"theirs"})


def is_empty(world: World) -> None:
    world.hub.repo(STYLE)


def has_moved(world: World) -> None:
    assert world.run(STYLE)[0] == 0
    world.hub.repo(STYLE).commit({"notes.txt": "theirs"})
    shutil.copy(GOLDEN / "kron.safetensors", world.folder / "ink.safetensors")


def is_tagged(world: World) -> None:
    world.hub.repo(STYLE).tag("v1")


def is_broken_here(world: World) -> None:
    raw = bytearray((world.folder / "ink.safetensors").read_bytes())
    raw[-1] ^= 1
    (world.folder / "ink.safetensors").write_bytes(raw)


def has_an_open_card(world: World) -> None:
    (world.folder / "README.md").write_text("---\nlicense: mit\n", encoding="utf-8")


def has_a_card_that_the_hub_refuses(world: World) -> None:
    (world.folder / "README.md").write_text("---\nlicense: my-own\n---\n", encoding="utf-8")
    body = json.dumps({"errors": [{"message": "license must be one of these"}], "warnings": []}).encode()
    refusal = replace(faults.status(400), change=lambda answer: replace(answer, body=body))
    world.hub.fault(refusal, on="validate-yaml", times=None)


def keeps_a_file_out(world: World) -> None:
    def ignoring(answer: Any) -> Any:
        return {"files": [file | {"shouldIgnore": file["path"] == "config.json"} for file in answer["files"]]}

    world.hub.repo(STYLE).commit({".gitignore": "config.json"})
    world.hub.fault(faults.edited(ignoring), on="/preupload/", times=None)


def is_somebody_elses(world: World) -> None:
    world.hub.repo("other/style")


def is_private_and_somebody_elses(world: World) -> None:
    world.hub.repo("other/style", private=True)


HASH = "0123456789abcdef0123456789abcdef01234567"

#: What is so, the command, whose token, and the error of push with and without --dry-run.
REFUSALS: dict[str, tuple[Callable[[World], None], list[str], str, str, int]] = {
    "a token that only reads": (is_empty, [STYLE], "reader", "AuthError", 9),
    "a token that may nothing": (is_empty, [STYLE], "powerless", "AuthError", 9),
    "a token that nobody knows": (is_empty, [STYLE], "revoked", "AuthError", 9),
    "no right to write": (is_somebody_elses, ["other/style"], "writer", "AuthError", 9),
    "no right to make it": (nobody_there, ["other/style"], "writer", "AuthError", 9),
    "no right to make anything": (nobody_there, [STYLE], "powerless", "AuthError", 9),
    "a private one of others": (is_private_and_somebody_elses, ["other/style"], "writer", "AuthError", 9),
    "a public one": (is_empty, [STYLE, "--private"], "writer", "UsageError", 2),
    "nothing to propose to": (nobody_there, [STYLE, "--create-pr"], "writer", "MissingRepository", 7),
    "no name": (nobody_there, [], "writer", "UsageError", 2),
    "no branch": (is_tagged, [STYLE, "--revision", "v1"], "writer", "UsageError", 2),
    "a reference for a branch": (nobody_there, [STYLE, "--revision", "refs/heads/dev"], "writer", "UsageError", 2),
    "a request for a branch": (nobody_there, [STYLE, "--revision", "refs/pr/1"], "writer", "UsageError", 2),
    "a commit for a branch": (nobody_there, [STYLE, "--revision", HASH], "writer", "UsageError", 2),
    "a reference for a tag": (nobody_there, [STYLE, "--tag", "refs/heads/v1"], "writer", "UsageError", 2),
    "a request for a tag": (is_empty, [STYLE, "--tag", "refs/pr/1"], "writer", "UsageError", 2),
    "a commit for a tag": (is_empty, [STYLE, "--tag", HASH], "writer", "UsageError", 2),
    "no right to propose": (is_somebody_elses, ["other/style", "--create-pr"], "powerless", "AuthError", 9),
    "a name in other letters": (nobody_there, ["USER/style"], "writer", "AuthError", 9),
    "a tag of another commit": (is_tagged, [STYLE, "--tag", "v1"], "writer", "ConflictError", 13),
    "another adapter there": (holds_another_adapter, [STYLE], "writer", "ConflictError", 13),
    "a branch that moved": (has_moved, [STYLE], "writer", "ConflictError", 13),
    "a broken adapter": (is_broken_here, [STYLE], "writer", "ChecksumError", 6),
    "a card without an end": (has_an_open_card, [STYLE], "writer", "CardError", 3),
    "a card that the Hub refuses": (has_a_card_that_the_hub_refuses, [STYLE], "writer", "CardError", 3),
    "the same in a repository": (
        has_a_card_that_the_hub_refuses,
        [STYLE, "--revision", "dev"],
        "writer",
        "CardError",
        3,
    ),
    "a file that is kept out": (keeps_a_file_out, [STYLE], "writer", "ChecksumError", 6),
}
#: What a push finds out when the commit is there already.
SEEN_ONLY_AFTERWARDS = {"a file that is kept out"}


@pytest.mark.parametrize("dry", [True, False], ids=["dry run", "push"])
@pytest.mark.parametrize("reason", REFUSALS)
def test_what_a_push_refuses_its_dry_run_refuses_too(world: World, reason: str, dry: bool) -> None:
    prepare, arguments, token, kind, code = REFUSALS[reason]
    prepare(world)
    before = {repo: world.hub.repo(repo).commits() for repo in world.hub.repositories}
    found, said = world.run(*arguments, *(["--dry-run"] if dry else []), token=token)
    assert (found, said["error"], said["exit_code"]) == (code, kind, code)
    if dry or reason not in SEEN_ONLY_AFTERWARDS:
        assert {repo: world.hub.repo(repo).commits() for repo in world.hub.repositories} == before


@pytest.mark.parametrize("reason", REFUSALS)
def test_both_say_it_in_the_same_words(world: World, reason: str) -> None:
    prepare, arguments, token, _, _ = REFUSALS[reason]
    prepare(world)
    _, dry = world.run(*arguments, "--dry-run", token=token)
    _, real = world.run(*arguments, token=token)
    assert {**dry, "key": None} == {**real, "key": None}


def test_an_organization_of_ones_own_is_no_stranger(world: World) -> None:
    assert world.run("guild/style", "--dry-run")[0] == 0
    assert world.hub.repositories == []
    assert world.run("guild/style")[0] == 0


def test_a_fine_grained_token_makes_repositories_where_it_says_so(world: World) -> None:
    def scoped(permission: str) -> Callable[[Any], Any]:
        scope = {"entity": {"_id": "1", "type": "user", "name": "user"}, "permissions": [permission]}

        def change(me: Any) -> Any:
            me["auth"]["accessToken"]["fineGrained"]["scoped"] = [scope]
            return me

        return change

    world.hub.fault(faults.edited(scoped("repo.content.read")), on="/whoami", times=1)
    assert world.run(STYLE, "--dry-run", token="powerless")[0] == 9
    world.hub.fault(faults.edited(scoped("repo.write")), on="/whoami", times=1)
    assert world.run(STYLE, "--dry-run", token="powerless")[0] == 0


def scoped_to(name: str, *permissions: str) -> Callable[[Any], Any]:
    """A change of whoami's answer: the fine-grained token has these permissions for a namespace or repository."""

    def change(me: Any) -> Any:
        scope = {"entity": {"_id": "1", "type": "user", "name": name}, "permissions": list(permissions)}
        me["auth"]["accessToken"]["fineGrained"]["scoped"] = [scope]
        return me

    return change


def everywhere(*permissions: str) -> Callable[[Any], Any]:
    def change(me: Any) -> Any:
        me["auth"]["accessToken"]["fineGrained"]["global"] = list(permissions)
        return me

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (scoped_to("user", "discussion.write", "repo.write"), "the permission discussion.write"),
        (scoped_to("other", "repo.content.read"), "the permission discussion.write"),
        # These may, as whoami says; the Hub of the tests, whose fine-grained tokens may nothing, is asked and refuses.
        (scoped_to("other", "discussion.write"), None),
        (scoped_to("other/style", "discussion.write"), None),
        (scoped_to("other", "repo.write"), None),
        (everywhere("discussion.write"), None),
    ],
)
def test_a_fine_grained_token_proposes_where_it_says_so(
    world: World, change: Callable[[Any], Any], said: str | None
) -> None:
    is_somebody_elses(world)
    world.hub.fault(faults.edited(change), on="/whoami", times=1)
    code, answer = world.run("other/style", "--create-pr", "--dry-run", token="powerless")
    assert (code, answer["error"], answer.get("expected")) == (9, "AuthError", said)
    asked = [entry.path for entry in world.hub.log if "/preupload/" in entry.path]
    assert len(asked) == (0 if said else 1)


def test_the_dry_run_of_a_request_that_may_be_opened_is_fine(world: World) -> None:
    is_somebody_elses(world)
    assert world.run("other/style", "--create-pr", "--dry-run")[0] == 0
    assert world.run("other/style", "--create-pr")[1]["branch"] == "refs/pr/1"


def test_a_namespace_in_other_letters_is_told_how_it_is_written(world: World) -> None:
    assert "Write user/style." in world.run("USER/style", "--dry-run")[1]["hint"]
