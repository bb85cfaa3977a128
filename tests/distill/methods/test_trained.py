"""`--method trained` on the miniature: better than its start, the same after a kill, and every option of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import si_hub
from si_hub import format as file_format
from si_hub.distill import Distilled, distill
from si_hub.errors import FormatError
from si_hub.storage.header import read_safetensors
from si_hub.training.loop import round_short
from tests.distill.ways import FEW_WAYS, pair_of, words_of
from tests.miniature import BASE, tune_attentions, write_prompts

TINY = {
    "steps": 4, "samples": 8, "part": 4, "walks": 1, "every": 4, "save_every": 2, "trajectories": 4, "states": 2,
    "probes": 1, "sampling_steps": 6, "held_out": 4, "size": 90_000,
}  # fmt: skip

Train = Callable[..., Distilled]


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("prompts"))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("surveys")


@pytest.fixture(scope="session")
def train(prompts: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """``train(output, **options)``: little training of a model that is tuned in its attentions alone."""
    tuned = tune_attentions(tmp_path_factory.mktemp("tuned"), "neon")

    def run(output: Path, **options: Any) -> Distilled:
        told = {**TINY, **options}
        return distill(BASE, tuned, output=output, method="trained", prompts=prompts, cache=str(cache), **told)

    return run


def training(file: Path) -> dict[str, Any]:
    document = file_format.read_document(read_safetensors(file))
    found: dict[str, Any] = document["training"]
    return found


class Stop(Exception):
    """Stands for a process that goes away."""


def test_training_is_never_worse_than_its_start_and_goes_on_after_a_kill(tmp_path: Path, train: Train) -> None:
    result = train(tmp_path / "whole.safetensors")
    told = training(result.path)
    assert result.error <= told["started_at"] < 1.0
    assert [step for step, _ in told["errors"]] == [0, 4]
    assert len(told["losses"]) == 4
    assert result.size <= TINY["size"]

    def killing(done: int, total: int) -> None:
        if (done, total) == (3, 4):
            raise Stop

    output = tmp_path / "killed.safetensors"
    with pytest.raises(Stop):
        train(output, progress=killing)
    assert not output.exists()
    again = train(output)
    assert training(again.path) == told
    assert again.path.read_bytes() == result.path.read_bytes()
    assert not list(tmp_path.glob(".killed*")), "unfinished work is thrown away once the adapter is written"


def test_a_rate_that_spoils_everything_leaves_the_start_and_says_so(tmp_path: Path, train: Train) -> None:
    result = train(tmp_path / "out.safetensors", rate=1e30)
    told = training(result.path)
    assert result.error == pytest.approx(told["started_at"], rel=1e-3)
    assert told["kept_step"] == 0
    assert told["stopped"] == "the loss was nan at step 2"
    assert result.notes == (
        "training stopped early: the loss was nan at step 2",
        "no step was better than the start, which is kept: try a lower rate, rate=N",
    )


def test_pictures_that_cannot_be_read_are_told_before_any_work(tmp_path: Path, train: Train, cache: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    before = sorted(cache.rglob("*"))
    with pytest.raises(FormatError, match=r"a\.png: is no picture that can be read"):
        train(tmp_path / "out.safetensors", images=str(tmp_path), seed=1)
    assert sorted(cache.rglob("*")) == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.slow
def test_pictures_features_and_checkpointing_are_options(tmp_path: Path, train: Train) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k, colour in enumerate(["red", "blue"]):
        Image.new("RGB", (40, 30), colour).save(folder / f"{k}.png")
    options: dict[str, Any] = {"images": str(folder), "features": 0.1, "checkpointing": True, "precision": "bf16"}
    result = train(tmp_path / "out.safetensors", **options, steps=2)
    told = training(result.path)
    assert round_short(result.error) <= told["started_at"]
    assert told["images"] is True
    assert told["precision"] == "bf16"
    assert len(told["losses"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("way", FEW_WAYS)
def test_two_processes_make_the_same_adapter_as_one(
    way: str, tmp_path: Path, prompts: Path, two_processes: Callable[..., str]
) -> None:
    command = [*map(str, pair_of(way, tmp_path)), "--method", "trained", "--prompts", str(prompts), "--size", "90kB"]
    command += words_of(way)
    # Numbers of half precision could differ by one in their last place.
    command += ["--dtype", "fp32"]
    for name, value in TINY.items():
        command += [] if name == "size" else ["--set", f"{name}={value}"]

    def made(name: str) -> list[str]:
        where = ["-o", str(tmp_path / name), "--set", f"cache={tmp_path / f'{name}-cache'}"]
        return ["-m", "si_hub.cli", "distill", *command, *where]

    subprocess.run([sys.executable, *made("one")], capture_output=True, check=True)
    two_processes(*made("two"))
    one, two = (load_file(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, values in one.items():
        torch.testing.assert_close(two[name], values, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_tenth_of_lycoris_error_is_left_at_its_own_size(tmp_path: Path, cache: Path) -> None:
    """The bar of the method, on one style; ``python -m benchmarks.distill_quality`` has them all."""
    from benchmarks.distill_quality import Yardstick

    si_hub.enable()
    yardstick = Yardstick("neon", 50, tmp_path)
    peer = yardstick.extracted("lycoris", 2, tmp_path / "peer.safetensors")
    options = {"steps": 100, "cache": str(cache)}
    ours = yardstick.distilled("trained", 2, tmp_path / "ours.safetensors", peer.size, options)
    assert ours.size <= peer.size
    assert ours.noise <= 0.1 * peer.noise
