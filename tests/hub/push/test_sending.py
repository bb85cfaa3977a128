"""The commit and the tag of a push: once, on the parent that was seen, and as sent."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from si_hub.errors import (
    CardError,
    ChecksumError,
    ConflictError,
    FileAccessError,
)
from si_hub.hub.push.pushing import push
from tests.hub.loopback import faults
from tests.hub.push.conftest import Push
from tests.places import GOLDEN

if TYPE_CHECKING:
    from tests.hub.loopback import LoopbackHub


STYLE = "user/style"


OURS = ["README.md", "config.json", "samples/1.png", "styleinject.safetensors"]


def retrain(folder: Path, name: str = "three_branches") -> bytes:
    """Another adapter under the same name."""
    shutil.copy(GOLDEN / f"{name}.safetensors", folder / "ink.safetensors")
    return (folder / "ink.safetensors").read_bytes()


def asked(hub: LoopbackHub) -> list[str]:
    """Requests that are not mere questions."""
    return [f"{e.method} {e.path}" for e in hub.log if e.method not in ("GET", "HEAD")]


def test_a_tag_names_the_commit_and_never_moves(send: Push, client: LoopbackHub, folder: Path) -> None:
    first = send(STYLE, tag="v1")
    assert client.repo(STYLE).tags == {"v1": first.commit}
    assert first.load.endswith('revision="v1")')
    assert send(tag="v1").changed is False
    assert send(tag="v1-again").tag == "v1-again"
    retrain(folder)
    client.log.clear()
    with pytest.raises(ConflictError, match=r"v1: the tag names another commit"):
        send(tag="v1")
    assert asked(client) == []
    assert send(tag="v2").commit == client.repo(STYLE).tags["v2"]


def test_a_pull_request_leaves_main_and_is_not_opened_twice(send: Push, client: LoopbackHub, folder: Path) -> None:
    send(STYLE)
    head = client.repo(STYLE).head()
    raw = retrain(folder)
    result = send(create_pr=True)
    repo = client.repo(STYLE)
    assert repo.head() == head
    assert repo.pulls == {"refs/pr/1": result.commit}
    assert repo.files("refs/pr/1")["styleinject.safetensors"] == raw
    assert result.pull_request == f"{client.url}/{STYLE}/discussions/1"
    again = send(create_pr=True)
    assert (again.changed, again.branch) == (False, "refs/pr/1")
    assert list(repo.pulls) == ["refs/pr/1"]
    assert send(create_pr=True, force=True).branch == "refs/pr/2"


def test_a_pull_request_is_pushed_to_by_its_name(send: Push, client: LoopbackHub, folder: Path) -> None:
    send(STYLE)
    retrain(folder)
    send(create_pr=True)
    raw = retrain(folder, "kron")
    send(revision="refs/pr/1", force=True)
    assert client.repo(STYLE).files("refs/pr/1")["styleinject.safetensors"] == raw


def test_a_branch_that_moved_is_left_as_it_is_and_force_goes_on_top(
    send: Push, client: LoopbackHub, folder: Path
) -> None:
    send(STYLE)
    theirs = client.repo(STYLE).commit({"notes.txt": "theirs"})
    raw = retrain(folder)
    with pytest.raises(
        ConflictError,
        match=rf"user/style: main: .*found {theirs}.*si_hub\.pull\('user/style', local_dir=FOLDER\).*force=True",
    ):
        send()
    assert client.repo(STYLE).head() == theirs
    result = send(force=True)
    assert client.repo(STYLE).commits()[:2] == [result.commit, theirs]
    assert client.repo(STYLE).files()["notes.txt"] == b"theirs"
    assert client.repo(STYLE).files()["styleinject.safetensors"] == raw


def test_a_branch_that_moved_to_the_same_content_is_no_conflict(send: Push, client: LoopbackHub) -> None:
    send(STYLE)
    theirs = client.repo(STYLE).commit({"notes.txt": "theirs"})
    assert send().commit == theirs
    assert send().changed is False


def test_metadata_that_the_hub_refuses_are_an_error_of_the_card(send: Push, client: LoopbackHub, folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: my-own\n---\n", encoding="utf-8")
    words = json.dumps({"errors": [{"message": f"license must be one of these, {client.token()}"}], "warnings": []})
    refusal = replace(faults.status(400), change=lambda answer: replace(answer, body=words.encode()))
    met = client.fault(refusal, on="validate-yaml", times=None)
    with pytest.raises(CardError, match=r"README\.md: the Hub does not take.*license must be one of these") as raised:
        send(STYLE)
    assert met.met == 1
    assert client.token() not in str(raised.value)
    assert raised.value.__context__ is None
    assert client.repo(STYLE).files() == {}


def test_an_answer_that_names_another_commit_is_not_believed(send: Push, client: LoopbackHub) -> None:
    first = client.repo(STYLE).head()
    client.fault(faults.edited(lambda answer: answer | {"commitOid": first}), on="POST .*/commit/")
    assert send(STYLE).commit == client.repo(STYLE).head() != first


def test_files_that_the_hub_keeps_out_of_the_commit_are_an_error(send: Push, client: LoopbackHub) -> None:
    def ignoring(answer: Any) -> Any:
        return {"files": [file | {"shouldIgnore": file["path"] == "config.json"} for file in answer["files"]]}

    client.repo(STYLE).commit({".gitignore": "config.json"})
    client.fault(faults.edited(ignoring), on="/preupload/")
    with pytest.raises(ChecksumError, match=r"other files than were sent.*\.gitignore"):
        send(STYLE)


def test_an_upload_in_parts_is_whole(send: Push, client: LoopbackHub, folder: Path) -> None:
    client.service.chunk_size = 1000
    send(STYLE)
    assert client.repo(STYLE).files()["styleinject.safetensors"] == (folder / "ink.safetensors").read_bytes()
    assert len(client.log.matching(r"files PUT")) > 3


def test_a_file_that_changes_meanwhile_is_not_sent(client: LoopbackHub, folder: Path) -> None:
    client.repo(STYLE)

    def retrained(me: object) -> object:
        os.utime(folder / "ink.safetensors", ns=(1, 1))
        return me

    touched = client.fault(faults.edited(retrained), on="/api/whoami")
    with pytest.raises(FileAccessError, match="was changed while it was being pushed"):
        push(folder, STYLE, token=client.token())
    assert touched.met == 1
    assert asked(client) == []
