"""Pictures of one's own as lessons: encoded, noised as the scheduler does it, and what the tuned model sees in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from si_hub.distill.pair.matching import Pair, match_all
from si_hub.distill.running.runner import Runner
from si_hub.distill.training.pictures import Pictures
from si_hub.errors import CannotRun, MissingFile
from si_hub.training.gallery import caption
from tests.distill.running.sampled import states
from tests.miniature import BASE, NEON


@pytest.fixture(scope="session")
def pair() -> Pair:
    return match_all(BASE, [NEON])[0]


@pytest.fixture(scope="module")
def runner(pair: Pair) -> Runner:
    return Runner(pair)


def test_lessons_of_pictures_are_what_the_tuned_model_sees_in_them(runner: Runner, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), "green").save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a small green star, on sand\n", encoding="utf-8")
    pictures = Pictures.of(runner, tmp_path, batch=32, seed=0)
    assert pictures.captions == ("a small green star, on sand",)
    assert pictures.latents.shape == (1, 8, 8, 8)
    runner.mix(1.0)
    lessons = pictures(3)
    with torch.no_grad():
        torch.testing.assert_close(runner(lessons.states[5:9]), lessons.target[5:9])
    assert torch.equal(pictures(3).target, lessons.target)
    assert not torch.equal(pictures(4).target, lessons.target)
    runner.mix(0.0)
    assert set(lessons.states.prompts) == {None, "a small green star, on sand"}
    assert torch.equal(lessons.states.inputs["timestep"].float() / 1000, lessons.states.place)


def test_a_folder_without_pictures_is_told(runner: Runner, tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="no folder with pictures"):
        Pictures.of(runner, tmp_path, batch=1, seed=0)
    assert caption(tmp_path / "nothing.png") is None


def test_latents_that_are_packed_are_refused(runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    step = states(runner)
    packed = replace(step, inputs={**step.inputs, "sample": step.inputs["sample"].flatten(2)})
    monkeypatch.setattr("si_hub.distill.running.trajectory.trajectories", lambda *_: [packed])
    with pytest.raises(CannotRun, match="packs its latents"):
        Pictures.of(runner, tmp_path, batch=1, seed=0)
