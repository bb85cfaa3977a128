"""`si-hub pull`, `inspect` and `convert` of a repository as a user and a script meet them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from si_hub.cli import main
from tests.hub.conftest import RunClient
from tests.hub.loopback import LoopbackHub, faults
from tests.hub.pull.world import EXPECTED, FILES, STYLE, UNSAFE, kohya, tree
from tests.killing import KILL, Command, python
from tests.systems import posix_alone

CLI = ("-m", "si_hub.cli")


@pytest.fixture
def style(hub: LoopbackHub) -> LoopbackHub:
    hub.repo(STYLE).commit({**FILES, **UNSAFE})
    return hub


def test_a_pull_prints_what_came_and_the_lock_line_that_repeats_it(
    style: LoopbackHub, run_client: RunClient, tmp_path: Path
) -> None:
    done = run_client(*CLI, "pull", STYLE, "--local-dir", "out")
    assert done.stderr == ""
    lock = done.stdout.splitlines()[-1].split()[-1]
    assert lock == f"{STYLE}@{style.repo(STYLE).head()}"
    assert tree(tmp_path / "out") == EXPECTED
    style.repo(STYLE).commit({"README.md": "new"})
    again = run_client(*CLI, "pull", lock, "--local-dir", "again", "-q")
    assert (again.stdout, again.stderr) == (f"{lock}\n", "")
    assert tree(tmp_path / "again") == EXPECTED


def test_scripts_get_json(style: LoopbackHub, run_client: RunClient, home: Path) -> None:
    answer = json.loads(run_client(*CLI, "pull", STYLE, "--json").stdout)
    assert set(answer["files"]) == set(FILES)
    assert set(answer["left_out"]) == {*UNSAFE, ".gitattributes"}
    assert answer["lock"] == f"{STYLE}@{answer['commit']}"
    assert tree(Path(answer["folder"])) == EXPECTED
    assert Path(answer["folder"]).is_relative_to(home / "hub")


#: What is asked, with which fault on which request; the exit code and the error's name.
REFUSALS = {
    "usage": (["pull", "no id"], None, "", 2, "UsageError"),
    "listing": (["pull", STYLE], faults.edited(lambda info: info | {"sha": "x"}), "/api/", 3, "BadListing"),
    "checksum": (["pull", STYLE], faults.corrupt(), "/blob/", 6, "ChecksumError"),
    "missing": (["pull", "user/gone"], None, "", 7, "MissingRepository"),
    "revision": (["pull", f"{STYLE}@gone"], None, "", 7, "MissingRevision"),
    "file": (["pull", STYLE, "--weight-name", "gone.safetensors"], None, "", 7, "MissingEntry"),
    "token": (["pull", STYLE, "--token", "hf_bad"], None, "", 9, "AuthError"),
    "gated": (["pull", "user/gated"], None, "", 10, "GatedRepository"),
    "rate": (["pull", STYLE], faults.rate_limit(500), "/api/", 11, "RateLimited"),
    "offline": (["pull", STYLE, "--local-files-only"], None, "", 7, "MissingFile"),
    "inspect": (["inspect", "user/gone"], None, "", 7, "MissingRepository"),
    "convert": (["convert", "user/gone"], None, "", 7, "MissingRepository"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_every_error_is_one_line_one_code_and_json(
    name: str, client: LoopbackHub, waits: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, fault, on, code, kind = REFUSALS[name]
    client.repo(STYLE).commit(FILES)
    client.repo("user/gated", gated=True).commit(FILES)
    if fault is not None:
        client.fault(fault, on=on, times=None)
    done = CliRunner().invoke(main, [*arguments, "--json"])
    assert done.exit_code == code
    [line] = done.stderr.splitlines()
    assert line.startswith("si-hub: ")
    assert json.loads(done.stdout)["error"] == kind
    assert json.loads(done.stdout)["exit_code"] == code
    assert "hf_bad" not in done.output


def test_no_network_is_said(style: LoopbackHub, home: Path, tmp_path: Path) -> None:
    patient = "import si_hub.hub.client as c; c.WAITS = (0.01,); from si_hub.cli import main; main()"
    environment = style.environment(home) | {"HF_ENDPOINT": "http://localhost:9"}
    command = [sys.executable, "-c", patient, "pull", STYLE]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 12
    assert "cannot be reached" in done.stderr.splitlines()[-1]


def test_the_token_is_nowhere(style: LoopbackHub, home: Path, tmp_path: Path) -> None:
    """Every logger at its loudest, a fault on the way, and whatever is printed or kept searched."""
    loud = (
        "import logging; logging.basicConfig(level=1); from huggingface_hub.utils import logging as l;"
        "l.set_verbosity_debug(); from si_hub.cli import main; main()"
    )
    style.repo("user/secret", private=True).commit(FILES)
    style.fault(faults.cut(100), on="/blob/")
    token = style.token("reader")
    for arguments in (["pull", "user/secret", "--json"], ["pull", "user/secret", "--local-dir", "out"],
                      ["inspect", "user/secret"], ["pull", "user/other"]):  # fmt: skip
        environment = style.environment(home, "reader") | {"HF_DEBUG": "1"}
        command = [sys.executable, "-c", loud, *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert "GET" in done.stderr
        assert token not in done.stdout + done.stderr
    kept = [path.read_bytes() for folder in (home, tmp_path / "out") for path in folder.rglob("*") if path.is_file()]
    assert len(kept) > 8
    assert not any(token.encode() in data for data in kept)
    assert {entry.token for entry in style.log if entry.server == "files"} == {None}
    assert {entry.token for entry in style.log if "user/secret" in entry.path} == {token}


def start(hub: LoopbackHub, home: Path, folder: Path, *arguments: str) -> Command:
    return python(*CLI, *arguments, env=hub.environment(home), cwd=folder)


@posix_alone
@pytest.mark.parametrize("on", ["/api/models/", "/blob/"])
@pytest.mark.parametrize("end", [signal.SIGINT, KILL])
def test_ctrl_c_and_kill_leave_nothing_half(
    on: str, end: signal.Signals, style: LoopbackHub, home: Path, tmp_path: Path, run_client: RunClient
) -> None:
    style.fault(faults.delay(60), on=on)
    process = start(style, home, tmp_path, "pull", STYLE, "--local-dir", "out")
    process.await_moment(lambda: style.log.matching(on))
    began = time.monotonic()
    code = process.end(0, end)
    if end is signal.SIGINT:
        assert code == 130
        assert process.err() == "si-hub: interrupted, nothing half-written is left behind\n"
        assert not list(tmp_path.glob("out/.si-hub-*"))
        assert time.monotonic() - began < 30
    left = tree(tmp_path / "out") if (tmp_path / "out").exists() else {}
    assert {name for name in left if not name.startswith(".si-hub-")} == set()
    style.clear_faults()
    run_client(*CLI, "pull", STYLE, "--local-dir", "out")
    assert {name: data for name, data in tree(tmp_path / "out").items() if not name.startswith(".si-hub-")} == EXPECTED


@posix_alone
@pytest.mark.parametrize("target", [[], ["--local-dir", "out"]])
def test_a_full_disk_is_said_and_leaves_nothing_half(
    target: list[str], style: LoopbackHub, run_client: RunClient, tmp_path: Path, home: Path
) -> None:
    """A limit on the size of files stands in for it."""
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)); from si_hub.cli import main; main()"
    )
    done = run_client("-c", script, "pull", STYLE, *target, code=8)
    assert "File too large" in done.stderr
    assert "styleinject.safetensors" not in tree(tmp_path / "out") | tree(home)
    assert not list(tmp_path.rglob(".si-hub-*"))
    run_client(*CLI, "pull", STYLE, *target)


@posix_alone
def test_a_progress_bar_is_drawn_on_a_terminal_and_nowhere_else(
    style: LoopbackHub, home: Path, tmp_path: Path, run_client: RunClient
) -> None:
    style.fault(faults.delay(0.5), on="/blob/")
    import pty

    leader, follower = pty.openpty()
    command = [sys.executable, *CLI, "pull", STYLE]
    environment = style.environment(home) | {"TERM": "xterm"}
    subprocess.run(command, env=environment, stderr=follower, stdout=subprocess.DEVNULL, check=True)
    assert b"pulling" in os.read(leader, 65536)
    assert run_client(*CLI, "pull", STYLE, "--force").stderr == ""


def test_eight_at_once_share_a_cache(style: LoopbackHub, home: Path, tmp_path: Path) -> None:
    running = [start(style, home, tmp_path, "pull", STYLE, "-q") for _ in range(8)]
    assert {process.wait() for process in running} == {0}
    outputs = {(process.out(), process.err()) for process in running}
    assert outputs == {(f"{STYLE}@{style.repo(STYLE).head()}\n", "")}
    [folder] = (home / "hub").glob("models--*/snapshots/*")
    assert tree(folder) == EXPECTED
    assert not list(home.rglob(".si-hub-*"))


def test_a_repository_is_inspected_and_converted_by_its_name(
    style: LoopbackHub, run_client: RunClient, tmp_path: Path
) -> None:
    style.repo("user/lora").commit({"any.safetensors": kohya()})
    shown = run_client(*CLI, "inspect", "user/lora").stdout
    assert re.match(r"user/lora@[0-9a-f]{40}/any\.safetensors\n", shown)
    assert "lora for sd15" in shown
    assert "exact" in run_client(*CLI, "convert", "user/lora@main").stdout
    assert (tmp_path / "lora.styleinject.safetensors").is_file()
    assert json.loads(run_client(*CLI, "inspect", STYLE, "--json").stdout)["kind"] == "styleinject"


@pytest.mark.parametrize("command", ["inspect", "pull"])
def test_looking_and_pulling_never_import_torch(command: str, style: LoopbackHub, run_client: RunClient) -> None:
    script = (
        "import sys; from si_hub.cli import main\ntry: main()\n"
        "except SystemExit: print(*{'torch', 'diffusers', 'numpy'} & set(sys.modules), file=sys.stderr)"
    )
    assert run_client("-c", script, command, STYLE).stderr.strip() == ""
