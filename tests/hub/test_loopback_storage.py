"""What the loopback Hub keeps: git's own ids, across restarts and a kill, whole under eight writers."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from tests.hub.loopback import LoopbackHub, git, hostile
from tests.killing import python
from tests.places import ROOT
from tests.systems import posix_alone

pytestmark = pytest.mark.usefixtures("client")
ID = "user/style"
WEIGHTS = bytes(range(256)) * 100


def test_a_restarted_hub_goes_on(tmp_path: Path) -> None:
    with LoopbackHub(tmp_path) as hub:
        repo = hub.repo(ID, private=True, gated=True)
        first = repo.commit({"a.json": "1", "w.safetensors": WEIGHTS}, "one")
        repo.tag("v1")
        repo.branch("dev/next")
        repo.admit("other")
        api = HfApi(endpoint=hub.url, token=hub.token("writer"))
        api.create_commit(ID, [CommitOperationAdd("b.json", b"2")], commit_message="pull", create_pr=True)
        before = repo.state.as_dict()
        address = hub.url
    with LoopbackHub(tmp_path, port=int(address.rpartition(":")[2])) as hub:
        repo = hub.repo(ID)
        assert hub.url == address
        assert repo.state.as_dict() == before
        assert (repo.head(), repo.tags, repo.branches["dev/next"]) == (first, {"v1": first}, first)
        assert repo.files() == {"a.json": b"1", "w.safetensors": WEIGHTS}
        assert repo.files("refs/pr/1")["b.json"] == b"2"
        repo.commit({"a.json": "2"})
        assert len(repo.commits()) == 3


def test_equal_bytes_are_kept_once(tmp_path: Path) -> None:
    with LoopbackHub(tmp_path) as hub:
        for number in range(3):
            hub.repo(f"user/{number}").commit({f"{number}.safetensors": WEIGHTS, "a.json": "{}"})
        assert len(list((tmp_path / "blobs").iterdir())) == 3  # the weights, the JSON, .gitattributes


def test_a_deleted_repository_stays_away(tmp_path: Path) -> None:
    with LoopbackHub(tmp_path) as hub:
        hub.repo(ID).delete()
    with LoopbackHub(tmp_path) as hub:
        assert hub.repositories == []


@posix_alone
def test_a_killed_hub_has_every_commit_it_answered(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    process = python("-u", "-m", "tests.hub.loopback", "--folder", tmp_path / "hub", cwd=ROOT, env=environment)
    greeting = "".join(iter(process.read_line, "\n"))
    exports = dict(re.findall(r"export (\w+)=(\S+)", greeting))
    api = HfApi(endpoint=exports["HF_ENDPOINT"], token=exports["HF_TOKEN"])
    api.create_repo(ID)
    made = [
        api.create_commit(ID, [CommitOperationAdd(f"{n}.json", b"{}")], commit_message=f"{n}").oid for n in range(3)
    ]
    assert process.end(0) == -signal.SIGKILL
    shown = process.out().removeprefix(greeting)
    assert exports["HF_TOKEN"] not in shown
    assert len(re.findall("writer .*POST .*/commit/main", shown)) >= 2  # the last line may die with it
    with LoopbackHub(tmp_path / "hub") as hub:
        assert hub.repo(ID).commits()[:3] == made[::-1]
        assert sorted(hub.repo(ID).files()) == ["0.json", "1.json", "2.json"]


def test_of_eight_pushers_with_one_parent_one_wins(client: LoopbackHub) -> None:
    repo = client.repo(ID)
    parent = repo.head()

    def push(number: int) -> int:
        api = HfApi(endpoint=client.url, token=client.token("writer"))
        files = [CommitOperationAdd("who.json", str(number).encode()), CommitOperationAdd(f"{number}.bin", WEIGHTS)]
        try:
            api.create_commit(ID, files, commit_message=f"{number}", parent_commit=parent)
        except HfHubHTTPError as problem:
            return problem.response.status_code
        return 200

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(push, range(8)))
    assert sorted(found) == [200] + [412] * 7
    winner = found.index(200)
    assert repo.files() == {"who.json": str(winner).encode(), f"{winner}.bin": WEIGHTS}
    assert repo.messages() == [str(winner), "initial commit"]


def test_eight_pushers_without_a_parent_all_arrive(client: LoopbackHub) -> None:
    def push(number: int) -> str:
        api = HfApi(endpoint=client.url, token=client.token("writer"))
        return api.create_commit(ID, [CommitOperationAdd(f"{number}.json", b"{}")], commit_message="m").oid

    repo = client.repo(ID)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(push, range(8)))
    assert sorted(repo.commits()[:-1]) == sorted(made)
    assert sorted(repo.files()) == [f"{number}.json" for number in range(8)]


@pytest.mark.skipif(shutil.which("git") is None, reason="git is the judge")
def test_ids_are_those_of_git(tmp_path: Path) -> None:
    files = {"a.json": b"{}", "a/b": b"1", "a/c/d": b"", "a-b": b"2", "a0/e": b"\0\xff", "z": b"{}"}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    who = {"GIT_AUTHOR_NAME": "user", "GIT_AUTHOR_EMAIL": "user@loopback", "GIT_AUTHOR_DATE": "1700000000 +0000"}
    who |= {name.replace("AUTHOR", "COMMITTER"): value for name, value in who.items()}

    def run(*arguments: str) -> str:
        environment = {**os.environ, **who, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        command = ["git", "-c", "core.autocrlf=false", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout

    run("init", "-q")
    run("add", ".")
    run("commit", "-qm", "title\n\nmore")
    blobs = {name: git.object_id("blob", content) for name, content in files.items()}
    trees = git.tree_ids(blobs)
    assert blobs == dict(line.split()[::-1] for line in run("ls-files", "--format=%(objectname) %(path)").splitlines())
    assert {name: run("rev-parse", f"HEAD:{name}").strip() for name in trees} == trees
    assert git.commit_id(trees[""], None, "user", 1_700_000_000, "title\n\nmore") == run("rev-parse", "HEAD").strip()


def test_an_lfs_pointer_is_as_its_specification_shows_it() -> None:
    """The example of git-lfs docs/spec.md, and its length there."""
    oid = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393"
    assert git.pointer(oid, 12345).decode() == (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 12345\n"
    )


def test_hostile_names_are_served_as_they_are(client: LoopbackHub) -> None:
    repo = client.repo(ID)
    repo.commit(dict.fromkeys(hostile.NAMES, "{}"))
    found = HfApi(endpoint=client.url).list_repo_tree(ID, recursive=True)
    assert {row.path for row in found} >= set(hostile.NAMES)
    info = HfApi(endpoint=client.url).model_info(ID)
    assert {file.rfilename for file in info.siblings or []} >= set(hostile.NAMES)
    for content in (hostile.long_header(1000), hostile.false_header(90 << 20)):
        size = int.from_bytes(content[:8], "little")
        assert size in (1000, 90 << 20)
    assert json.loads(hostile.long_header(1000)[8:]) == {}
    assert len(hostile.long_card(10_000)) == 10_000
