"""`--method trained` killed at random moments, interrupted, and started twice: the command as a user has it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.distill.killing import KILLS, PHASES
from tests.distill.ways import ONE_WAY, pair_of, words_of
from tests.killing import Command, python
from tests.miniature import BASE, NEON, write_prompts
from tests.places import ROOT
from tests.systems import posix_alone

pytestmark = pytest.mark.slow

TINY = {
    "samples": 8, "part": 4, "walks": 1, "every": 3, "save_every": 2, "trajectories": 4, "states": 2, "probes": 1,
}  # fmt: skip
#: What a killed run may leave in its work folder and in the cache.
LEFT = re.compile(
    r"plan\.json|training\.pt|[0-9a-f]{32}\.safetensors|size-\d+\.safetensors|\.si-hub-[0-9a-f]{16}\.tmp"
    r"|\.si-hub-(?:holder|gate|keeper-[0-9a-f]{16})\.lock"
)


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    prompts = write_prompts(tmp_path_factory.mktemp("prompts"))
    told = ["--method", "trained", "--size", "90kB", "--prompts", str(prompts)]
    return ["distill", str(BASE), str(NEON), *told, *(f"--set={name}={value}" for name, value in TINY.items())]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("surveys")


def start(arguments: list[str], *more: str) -> Command:
    # As many threads as the runs that are killed have: another number rounds otherwise.
    return python("-m", "si_hub.cli", *arguments, *more, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})


def finish(child: Command) -> None:
    assert child.wait() == 0, child.err()


@posix_alone
@pytest.mark.parametrize("way", ONE_WAY)
def test_killed_at_ten_random_moments_it_goes_on_along_the_same_curve_to_the_same_bytes(
    way: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, arguments: list[str]
) -> None:
    pair = map(str, pair_of(way, tmp_path_factory.mktemp("pair")))
    arguments = ["distill", *pair, *arguments[3:], *words_of(way), "--steps", "12"]
    command = [sys.executable, "-m", "tests.distill.killing", str(tmp_path), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["counts"]) == set(PHASES) >= set(KILLS)
    assert found["ends"] == [-signal.SIGKILL] * 10, "a run ended before it was killed"

    whole, killed = (torch.load(tmp_path / name, weights_only=True)["course"] for name in ("whole.pt", "killed.pt"))
    losses = whole[0]
    assert killed == whole
    assert len(losses) == 12
    kept = found["losses"]
    assert all(some == losses[: len(some)] for some in kept)
    assert [len(some) for some in kept] == sorted(len(some) for some in kept), "a kill cost more than one checkpoint"
    assert len({len(some) for some in kept}) > 3, "the killed runs left nothing to go on from"

    assert (tmp_path / "killed").read_bytes() == (tmp_path / "whole").read_bytes()
    finish(start(arguments, "-o", str(tmp_path / "plain"), f"--set=cache={tmp_path / 'whole-cache'}"))
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "whole").read_bytes()

    for names in found["left"]:
        assert [name for name in names if not LEFT.fullmatch(name)] == []
        assert len([name for name in names if name.endswith(".tmp")]) < 2, "what a killed run was writing is swept"
        assert len([name for name in names if "keeper" in name]) < 5, "locks of dead processes are not swept"
    assert any(name.endswith(".tmp") for names in found["left"] for name in names), "no kill met a half-written file"
    last = {path.name for path in tmp_path.iterdir() if not LEFT.fullmatch(path.name)}
    caches = {f"{name}-cache" for name in ("whole", "killed")}
    assert last == {"whole", "killed", "plain", "counts.json", "whole.pt", "killed.pt"} | caches


@posix_alone
def test_ctrl_c_while_training_says_how_to_go_on(tmp_path: Path, arguments: list[str], cache: Path) -> None:
    output = tmp_path / "neon.safetensors"
    # Quietly: else the plan and the phases are told too.
    told = [*arguments, "--quiet", "--steps=40", "-o", str(output), f"--set=cache={cache}"]
    child = start(told)
    assert child.end((tmp_path / ".neon.safetensors.work" / "training.pt").exists, signal.SIGINT) == 130
    assert child.err().splitlines() == [
        "si-hub: what is finished is kept; the same command goes on from there",
        "si-hub: interrupted, nothing half-written is left behind",
    ]
    assert [path.name for path in tmp_path.iterdir()] == [".neon.safetensors.work"]
    kept = torch.load(tmp_path / ".neon.safetensors.work" / "training.pt", weights_only=True)["course"][0]
    assert 0 < len(kept) < 40
    finish(start(told))
    assert [path.name for path in tmp_path.iterdir()] == ["neon.safetensors"]


@posix_alone
def test_the_same_command_twice_at_once_is_told_and_harms_nothing(
    tmp_path: Path, arguments: list[str], cache: Path
) -> None:
    output = tmp_path / "neon.safetensors"
    told = [*arguments, "--steps=12", "-o", str(output), f"--set=cache={cache}"]
    first = start(told)
    first.await_moment((tmp_path / ".neon.safetensors.work" / "plan.json").exists)
    first.send(signal.SIGSTOP)
    try:
        second = start(told)
        code = second.wait()
    finally:
        first.send(signal.SIGCONT)
    assert code == 8
    assert second.err() == (
        f"si-hub: {output.with_name('.neon.safetensors.work')}: another run is at work in it. "
        "Wait for its end, or name another with --work.\n"
    )
    finish(first)
    assert [path.name for path in tmp_path.iterdir()] == ["neon.safetensors"]
