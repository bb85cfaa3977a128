"""Several pushers at once, and pushers that are interrupted: processes of their own, as users have them."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from si_hub import format
from si_hub.errors import ConflictError
from si_hub.hub.push.pushing import push
from tests.hub.loopback import LoopbackHub, faults
from tests.killing import Command, python
from tests.places import GOLDEN
from tests.systems import posix_alone

STYLE = "user/style"
PUSHERS = 8


def folder_of(place: Path, title: str) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    adapter = format.read(GOLDEN / "one_branch.safetensors")
    adapter.about["title"] = title
    format.write(adapter, place / "ink.safetensors", overwrite=True)
    return place


def start(hub: LoopbackHub, home: Path, folder: Path, *arguments: str) -> Command:
    return python("-m", "si_hub.cli", "push", *arguments, cwd=folder, env=hub.environment(home, "writer"))


def test_of_eight_pushers_with_one_parent_one_wins_and_nothing_is_lost(
    client: LoopbackHub, home: Path, tmp_path: Path
) -> None:
    first = folder_of(tmp_path / "first", "First")
    push(first, STYLE, token=client.token())
    folders = [tmp_path / str(number) for number in range(PUSHERS)]
    for number, folder in enumerate(folders):
        shutil.copytree(first, folder)
        folder_of(folder, f"Pusher {number}")
    # All have looked at the same parent before the first of them commits.
    client.fault(faults.delay(1.0), on="/preupload/", times=None)
    running = [start(client, home, folder, "--json") for folder in folders]
    codes = Counter(process.wait() for process in running)
    assert codes == {0: 1, 13: PUSHERS - 1}, [process.err() for process in running]
    answers = [json.loads(process.out()) for process in running]
    (winner,) = [number for number, answer in enumerate(answers) if "commit" in answer]
    assert {answer["error"] for number, answer in enumerate(answers) if number != winner} == {"ConflictError"}
    repo = client.repo(STYLE)
    assert repo.commits()[0] == answers[winner]["commit"]
    assert len(repo.commits()) == 3
    assert repo.files()["styleinject.safetensors"] == (folders[winner] / "ink.safetensors").read_bytes()
    # The others can go on top of it, one after the other, and every adapter is in the history.
    for number, folder in enumerate(folders):
        if number != winner:
            push(folder, token=client.token(), force=True)
    versions = {repo.files(commit).get("styleinject.safetensors") for commit in repo.commits()}
    assert {(folder / "ink.safetensors").read_bytes() for folder in folders} <= versions


def test_of_eight_pushers_of_a_new_repository_one_wins(client: LoopbackHub, tmp_path: Path) -> None:
    folders = [folder_of(tmp_path / str(number), f"Pusher {number}") for number in range(PUSHERS)]
    client.fault(faults.delay(0.5), on="/preupload/", times=None)

    def attempt(folder: Path) -> type[BaseException] | None:
        try:
            push(folder, STYLE, token=client.token(), bars=False)
        except ConflictError as error:
            return type(error)
        return None

    with ThreadPoolExecutor(PUSHERS) as pool:
        assert Counter(pool.map(attempt, folders)) == {None: 1, ConflictError: PUSHERS - 1}
    assert len(client.repo(STYLE).commits()) == 2


MOMENTS = ["POST .*/preupload/", "POST .*/commit/"]
OTHERS = ["GET .*/refs", "PUT ", "GET .*blobs=true"]


@posix_alone
@pytest.mark.parametrize("at", [*MOMENTS, *(pytest.param(at, marks=pytest.mark.slow) for at in OTHERS)])
def test_ctrl_c_leaves_the_repository_as_it_was_or_whole(
    client: LoopbackHub, home: Path, tmp_path: Path, at: str
) -> None:
    folder = folder_of(tmp_path / "ink", "Before")
    push(folder, STYLE, token=client.token())
    repo = client.repo(STYLE)
    before = repo.commits()
    raw = (folder_of(folder, "After") / "ink.safetensors").read_bytes()
    late = client.fault(faults.delay(2.0), on=at, skip=1 if "blobs" in at else 0)
    process = start(client, home, folder)
    code = process.end(lambda: late.met, signal.SIGINT)
    assert (code, process.out()) == (130, "")
    assert "Traceback" not in process.err()
    assert process.err().splitlines()[-1].startswith("si-hub: interrupted")
    assert (folder / "ink.safetensors").read_bytes() == raw
    client.clear_faults()
    push(folder, token=client.token(), bars=False)
    assert repo.commits()[1:] == before
    assert repo.files()["styleinject.safetensors"] == raw
    assert not [name for name in os.listdir(folder) if name.endswith(".tmp")]
