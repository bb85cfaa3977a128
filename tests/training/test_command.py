"""A training end to end: the file, what it says, what it does, and that interruptions change nothing."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import si_hub
from si_hub import format as file_format
from si_hub.errors import UsageError
from si_hub.training import session
from si_hub.training.loop import _Run
from si_hub.training.noising import Objective, mix_noise
from tests.distill.families import sd3
from tests.killing import Fork, kill_self
from tests.miniature import BASE, MINIATURE
from tests.places import ROOT
from tests.training.drawn import write_pictures

FAST: dict[str, Any] = {
    "steps": 6, "batch": 4, "rank": 2, "measured": 4, "save_every": 2, "layers": "attention", "surveyed": 16,
}  # fmt: skip


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def style_error(pipeline: Any, folder: Path) -> float:
    """Mean error of the predicted velocity on pictures of a folder, at all times; noise of its own seed."""
    from si_hub.training.encoding import encode_picture

    objective, generator = Objective.of(pipeline.scheduler), torch.Generator().manual_seed(1234)
    files = sorted(folder.glob("*.png"))
    latents = torch.cat([encode_picture(pipeline, file, 32, 32) for file in files])
    told = [file.with_suffix(".txt").read_text(encoding="utf-8") for file in files]
    noise = torch.randn(latents.shape, generator=generator)
    times = torch.linspace(0, 999, len(files)).long()
    with torch.no_grad():
        text = pipeline.encode_prompt(told, torch.device("cpu"), 1, False)[0]
        noisy = mix_noise(objective.kept, objective.steps, latents, noise, times)
        found = pipeline.unet(noisy, times, text).sample
    return float((found - pipeline.scheduler.get_velocity(latents, noise, times)).square().mean())


def test_the_style_shows_on_unseen_pictures_and_the_file_says_how_it_was_made(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    learned = write_pictures(tmp_path / "ink", count=16)
    unseen = write_pictures(tmp_path / "unseen", count=16, seed=9000)
    trained = si_hub.train(
        BASE, learned, output=tmp_path / "a.safetensors", steps=60, batch=8, measured=16, trigger="inkish",
        validation=unseen,
    )  # fmt: skip
    si_hub.enable()
    pipeline = StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)
    before = style_error(pipeline, unseen)
    pipeline.load_styleinject_weights(tmp_path / "a.safetensors")
    # 0.30 of the base's error at 500 steps, as measured; a fifth of the steps is most of the way.
    assert style_error(pipeline, unseen) < 0.5 * before
    adapter = file_format.read(tmp_path / "a.safetensors")
    said = adapter.about["training"]
    assert (said["pictures"], said["steps"], said["seed"], said["method"]) == (16, 60, 0, "styleinject")
    assert said["versions"]["torch"] == torch.__version__
    assert adapter.about["trigger_words"] == ["inkish"]
    assert len(adapter.about["preview_prompts"]) == 4
    assert {layer.transform for layer in adapter.components["unet"].layers.values()} == {"add"}
    assert str(tmp_path) not in (tmp_path / "a.safetensors").read_bytes()[:60_000].decode("latin1")
    assert trained.as_dict()["kept"] > 0
    # The word and nineteen others are more than the miniature's text encoder reads.
    assert any("longer than the text encoder reads" in note for note in trained.as_dict()["notes"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "ink", "unseen"]


def test_a_folder_is_shared_as_it_is(ink: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    found: Any = si_hub.train(BASE, ink, output=f"{tmp_path}/mine/", every=3, report=report, **FAST)
    assert found.path == tmp_path / "mine" / "styleinject.safetensors"
    assert sorted(path.name for path in (tmp_path / "mine" / "samples").iterdir()) == [
        "01.png", "02.png", "03.png", "04.png",
    ]  # fmt: skip
    assert found.report == (report, tmp_path / "mine" / "drawn.png")
    assert found.report[1].is_file()
    text = report.read_text(encoding="utf-8")
    assert all(f"<th>{title}</th>" in text for title in ("base", "step 3", "step 6"))
    assert "Loss by step" in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize("name", ["sdxl", "dit", "sd3"])
def test_other_bases_are_trained(name: str, ink: Path, tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline

    base = sd3(tmp_path / "sd3") if name == "sd3" else MINIATURE / name
    side = 16 if name == "sd3" else 32
    found: Any = si_hub.train(base, ink, output=tmp_path / "a.safetensors", resolution=side, **FAST)
    assert found.error < 1.0
    si_hub.enable()
    pipeline = DiffusionPipeline.from_pretrained(base)
    pipeline.load_styleinject_weights(found.path, adapter_name="mine")
    assert ["mine"] in pipeline.get_list_styleinject_adapters().values()


@pytest.mark.parametrize("told", [
    {"method": "lora"}, {"method": "dora"}, {"text_encoder": True}, {"transform": "adain", "branches": 2},
    {"preserve": 2, "min_snr": 5, "noise_offset": 0.1, "average": 0, "part": 2, "spread": "middle"},
    {"precision": "bf16", "checkpointing": True},
])  # fmt: skip
def test_every_way_of_training_learns(told: dict[str, Any], ink: Path, tmp_path: Path) -> None:
    found: Any = si_hub.train(BASE, ink, output=tmp_path / "a.safetensors", **{**FAST, **told})
    assert found.error < 0.99
    assert all(value.isfinite().all() for value in load_file(found.path).values())


@pytest.mark.parametrize("router", ["fixed", "learned"])
def test_styles_become_branches(router: str, ink: Path, tmp_path: Path) -> None:
    neon = write_pictures(tmp_path / "neon", "neon")
    found: Any = si_hub.train(BASE, styles=[ink, neon], router=router, output=tmp_path / "two.safetensors", **FAST)
    assert found.pictures == {"ink": 4, "neon": 4}
    adapter = file_format.read(found.path)
    assert adapter.branches == ("ink", "neon")
    assert adapter.about["training"]["styles"] == {"ink": 4, "neon": 4}
    layers = adapter.components["unet"].layers.values()
    routers = [tensor for layer in layers for leaf, tensor in layer.tensors.items() if "router" in leaf]
    assert routers
    assert any(tensor.torch().any() for tensor in routers) == (router == "learned")


def test_branches_are_trained_with_activations_computed_twice(ink: Path, tmp_path: Path) -> None:
    """The way back computes each picture's block again with the picture's own branch, not with the last one's."""
    neon = write_pictures(tmp_path / "neon", "neon")
    found = []
    for checkpointing in (False, True):
        output = tmp_path / f"{checkpointing}.safetensors"
        si_hub.train(BASE, styles=[ink, neon], output=output, checkpointing=checkpointing, **FAST)
        found.append(load_file(output))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_a_shared_folder_shows_what_the_adapter_in_it_draws(
    ink: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([1.0, 0.9, 0.8, 0.5, 0.6, 0.7, 0.8])  # Best after the third step; drawn after the sixth too.
    monkeypatch.setattr("si_hub.training.task.PictureTask.error", lambda _: next(errors))
    monkeypatch.setattr("si_hub.work.folder.Work.clear", lambda _: None)
    told = {**FAST, "rate": 0.05, "ranks": "even"}
    found: Any = si_hub.train(BASE, ink, output=f"{tmp_path}/mine/", every=6, prompts=["a red circle"], **told)
    assert found.kept == 3
    work = next(tmp_path.glob("mine/.*.work"))
    shared = (tmp_path / "mine" / "samples" / "01.png").read_bytes()
    assert shared == (work / "drawn step 3 0.png").read_bytes()
    assert shared != (work / "drawn step 6 0.png").read_bytes()


def killed_at(folder: Path, ink: Path | None, step: int, where: str, base: Path = BASE, **told: Any) -> int:
    """The same training in a process that ends itself without warning at a step; how it ended."""

    def run() -> None:
        advance, save, survey = _Run.advance, _Run.save, session.survey  # type: ignore[attr-defined]

        def advancing(self: Any) -> None:
            advance(self)
            if where == "step" and self.step == step:
                kill_self()

        def saving(self: Any) -> None:
            if where == "save" and self.step >= step:
                kill_self()
            save(self)

        def surveying(modules: Any, losses: Any, *more: Any, **named: Any) -> Any:
            def until() -> Iterator[Any]:
                for place, loss in enumerate(losses):
                    if where == "survey" and place == step:
                        kill_self()
                    yield loss

            return survey(modules, until(), *more, **named)

        _Run.advance, _Run.save = advancing, saving  # type: ignore[method-assign]
        session.survey = surveying  # type: ignore[attr-defined]
        si_hub.train(base, ink, output=folder / "a.safetensors", **{**FAST, **told})

    return Fork(run).wait()


@pytest.mark.parametrize(("step", "where"), [(3, "step"), (4, "save"), (6, "step")])
def test_a_killed_training_goes_on_to_the_same_bytes(step: int, where: str, ink: Path, tmp_path: Path) -> None:
    whole: Any = si_hub.train(BASE, ink, output=tmp_path / "whole.safetensors", **FAST)
    assert killed_at(tmp_path, ink, step, where) != 0
    assert (tmp_path / ".a.safetensors.work" / "training.pt").exists()
    assert not (tmp_path / "a.safetensors").exists()
    taken_up: list[int] = []

    def first(done: int, _: int) -> None:
        taken_up.append(done)

    again: Any = si_hub.train(BASE, ink, output=tmp_path / "a.safetensors", progress=first, **FAST)
    assert taken_up[0] > 1
    assert digest(again.path) == digest(whole.path)
    assert not (tmp_path / ".a.safetensors.work").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdxl", "dit"])
def test_styles_on_other_bases_survive_a_kill_in_every_phase(name: str, ink: Path, tmp_path: Path) -> None:
    neon = write_pictures(tmp_path / "neon", "neon")
    told: dict[str, Any] = {"styles": [ink, neon], "resolution": 32}
    whole: Any = si_hub.train(MINIATURE / name, output=tmp_path / "whole.safetensors", **{**FAST, **told})
    for step, where in ((1, "survey"), (3, "step"), (4, "save")):
        assert killed_at(tmp_path, None, step, where, MINIATURE / name, **told) != 0
        assert (tmp_path / ".a.safetensors.work").is_dir()
        assert not (tmp_path / "a.safetensors").exists()
    again: Any = si_hub.train(MINIATURE / name, output=tmp_path / "a.safetensors", **{**FAST, **told})
    assert digest(again.path) == digest(whole.path)
    assert file_format.read(again.path).branches == ("ink", "neon")


def test_another_training_does_not_take_up_what_is_not_its_own(ink: Path, tmp_path: Path) -> None:
    killed_at(tmp_path, ink, 3, "step")
    steps: list[int] = []
    si_hub.train(
        BASE, ink, output=tmp_path / "a.safetensors", progress=lambda done, _: steps.append(done), **{**FAST, "rank": 3}
    )
    assert steps[0] == 1


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_no_byte(ink: Path, tmp_path: Path) -> None:
    import random

    told = {**FAST, "steps": 1000, "save_every": 3}
    whole: Any = si_hub.train(BASE, ink, output=tmp_path / "whole.safetensors", **told)
    draw, left = random.Random(0), 10
    command = [sys.executable, "-m", "si_hub", "train", str(BASE), str(ink), "-o", str(tmp_path / "a.safetensors")]
    command += ["--steps", "1000", "--batch", "4", "--rank", "2", "--layers", "attention"]
    command += ["--set", "measured=4", "--set", "save_every=3", "--set", "surveyed=16", "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    while left:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            process.communicate(timeout=draw.uniform(1.0, 7.0))
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            left -= 1
    if not (tmp_path / "a.safetensors").exists():
        subprocess.run(command, env=environment, check=True, capture_output=True)
    assert left < 5
    found = load_file(tmp_path / "a.safetensors")
    assert all(torch.equal(value, found[name]) for name, value in load_file(whole.path).items())
    assert digest(tmp_path / "a.safetensors") == digest(whole.path)


def test_the_command_prints_data_and_is_taken_up_after_ctrl_c(ink: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from si_hub.cli import main

    told = ["train", str(BASE), str(ink), "-o", str(tmp_path / "a.safetensors"), "--steps", "4", "--batch", "2"]
    told += ["--rank", "1", "--layers", "attention", "--set", "measured=4", "--set", "save_every=1"]
    advance = _Run.advance

    def surveying(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    def interrupted(self: Any) -> None:
        if self.step == 2:
            raise KeyboardInterrupt
        advance(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "survey", surveying)
        early = CliRunner().invoke(main, told)
    assert early.exit_code == 130, early.stderr
    assert early.stderr.splitlines()[-1].startswith("si-hub: interrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Run, "advance", interrupted)
        stopped = CliRunner().invoke(main, told)
    assert stopped.exit_code == 130
    assert "the same command goes on from there" in stopped.stderr
    assert not (tmp_path / "a.safetensors").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "survey", lambda *_, **__: pytest.fail("the survey was kept"))
        done = CliRunner().invoke(main, [*told, "--json"])
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["steps"], said["rank"], said["pictures"]) == (4, 1, {"": 4})
    assert any("went on from" in note for note in said["notes"])
    twice = CliRunner().invoke(main, [*told, "--json"])
    assert twice.exit_code == 8
    assert json.loads(twice.stdout)["error"]


def test_half_precision_on_a_cpu_is_refused_before_any_work(ink: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="precision: a CPU is far slower in fp16"):
        si_hub.train(BASE, ink, output=tmp_path / "a.safetensors", precision="fp16", device="cpu", **FAST)
    assert list(tmp_path.iterdir()) == []


def test_what_is_said_twice_is_told(ink: Path) -> None:
    from click.testing import CliRunner

    from si_hub.cli import main

    done = CliRunner().invoke(main, ["train", str(BASE), str(ink), "--rank", "2", "--set", "rank=3"])
    assert done.exit_code == 2
    assert "rank: is said twice" in done.stderr


@pytest.mark.slow
def test_two_processes_train_what_one_does(ink: Path, tmp_path: Path, two_processes: Callable[..., str]) -> None:
    told = ["--steps", "20", "--batch", "4", "--part", "2", "--rank", "2", "--layers", "attention", "--json"]
    two_processes("-m", "si_hub", "train", str(BASE), str(ink), "-o", str(tmp_path / "two.safetensors"), *told)
    one: Any = si_hub.train(
        BASE, ink, output=tmp_path / "one.safetensors", steps=20, batch=4, part=2, rank=2, layers="attention"
    )
    two = load_file(tmp_path / "two.safetensors")
    for name, value in load_file(one.path).items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-4)
