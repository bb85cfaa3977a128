"""Pictures of one's own as lessons: encoded, noised as the scheduler does it, and what the tuned model sees in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from si_hub.distill.pair.matching import Pair, match_all
from si_hub.distill.running.runner import Runner
from si_hub.distill.training.pictures import Pictures, add_noise, caption, check_pictures, encode_picture, some_pictures
from si_hub.errors import CannotRun, FormatError, MissingFile, NotUtf8
from tests.distill.running.sampled import states
from tests.miniature import BASE, NEON


@pytest.fixture(scope="session")
def pair() -> Pair:
    return match_all(BASE, [NEON])[0]


@pytest.fixture(scope="module")
def runner(pair: Pair) -> Runner:
    return Runner(pair)


@pytest.mark.parametrize("time", [0, 400, 999])
def test_pictures_are_noised_as_the_scheduler_does_it(runner: Runner, time: int) -> None:
    scheduler = runner.pipeline.scheduler
    latents, noise = torch.randn(2, 8, 8, 8), torch.randn(2, 8, 8, 8)
    wanted = scheduler.add_noise(latents, noise, torch.tensor([time, time]))
    found = add_noise(scheduler, latents, noise, torch.tensor([float(time)] * 2))
    torch.testing.assert_close(found, wanted)


def test_pictures_of_flow_matching_models_are_noised_along_a_line() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler()
    latents, noise = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2)
    time = scheduler.timesteps[300:301]
    torch.testing.assert_close(add_noise(scheduler, latents, noise, time), scheduler.scale_noise(latents, time, noise))


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


def test_pictures_of_every_kind_and_size_are_encoded_alike(runner: Runner, tmp_path: Path) -> None:
    """Turned as their maker held the camera; a picture of one colour is that colour in any mode and size."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "plain.png")
    Image.new("RGBA", (33, 71), (255, 0, 0, 255)).save(tmp_path / "alpha.png")
    Image.new("P", (300, 1), 0).save(tmp_path / "black.bmp")
    halves = Image.new("RGB", (64, 64), "red")
    halves.paste("blue", (0, 0, 64, 32))
    halves.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn by a quarter, clockwise.
    halves.rotate(90).save(tmp_path / "turned.png", exif=exif)
    found = {file.stem: encode_picture(runner, file, 32, 32) for file in some_pictures(tmp_path)}
    assert all(latents.shape == (1, 8, 8, 8) for latents in found.values())
    torch.testing.assert_close(found["alpha"], found["plain"])
    torch.testing.assert_close(found["turned"], found["upright"])
    assert not torch.allclose(found["black"], found["plain"], atol=0.1)


@pytest.mark.parametrize("length", [0, 40, 1000])
def test_a_picture_that_ends_early_is_told(runner: Runner, tmp_path: Path, length: int) -> None:
    file = tmp_path / "a.png"
    Image.effect_noise((64, 64), 50).save(file)
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(FormatError, match=r"a\.png: is no picture that can be read"):
        encode_picture(runner, file, 64, 64)


def test_a_caption_that_is_no_text_is_told(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(NotUtf8, match=r"a\.txt: is no UTF-8 text"):
        check_pictures(tmp_path)
