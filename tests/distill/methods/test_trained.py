"""`--method trained` on the miniature: better than its start, the same after a kill, and every option of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file

import si_hub
from si_hub import format as file_format
from si_hub.adapter import Component, Layer
from si_hub.distill import Distilled, distill
from si_hub.distill.methods.svd import compute, plan_of
from si_hub.distill.pair.matching import Pair, match_all
from si_hub.distill.running.features import Features, blocks, record
from si_hub.distill.running.runner import Runner
from si_hub.distill.running.student import Student
from si_hub.distill.running.trajectory import pick, trajectories
from si_hub.distill.training.options import accelerator_of, keep_accelerate
from si_hub.distill.training.pictures import Pictures, add_noise, caption, check_pictures, encode_picture, some_pictures
from si_hub.errors import CannotRun, FormatError, MissingFile, NotUtf8
from si_hub.storage.header import read_safetensors
from tests.miniature import BASE, NEON, tune_attentions, write_prompts

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
def pair() -> Pair:
    return match_all(BASE, [NEON])[0]


@pytest.fixture(scope="module")
def runner(pair: Pair) -> Runner:
    return Runner(pair)


def components(pair: Pair, rank: int = 2) -> dict[str, Component]:
    """A plain low-rank adapter of the pair."""
    found: dict[str, Component] = {}
    for change in pair.changes:
        leaves, _ = compute(plan_of(change, rank), "F32", 0, torch.device("cpu"))
        if leaves:
            found.setdefault(change.component, Component()).layers[change.module] = Layer(leaves)
    return found


def states(runner: Runner, count: int = 3) -> Any:
    runner.mix(1.0)
    steps = trajectories(runner, ["a small red star, on sand"], [0], 4)
    runner.mix(0.0)
    return pick(steps, count, 0.0, [0])


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
        "no step was better than the start, which is kept: try a lower rate, --set rate=N",
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
    assert result.error <= told["started_at"] * 1.0001
    assert told["images"] is True
    assert told["precision"] == "bf16"
    assert len(told["losses"]) == 2


# Parts.


def test_a_student_goes_in_learns_in_float32_and_comes_out_without_a_trace(runner: Runner, pair: Pair) -> None:
    some = states(runner)
    with torch.no_grad():
        base = runner(some)
        runner.mix(1.0)
        tuned = runner(some)
        student = Student(runner, components(pair))
        acting = runner(some)
        with student.away(runner):
            assert torch.equal(runner(some), tuned)
        assert torch.equal(runner(some), acting)
    assert not torch.equal(acting, base)
    assert student.leaves
    assert all(leaf.requires_grad and leaf.dtype == torch.float32 for leaf in student.leaves.values())
    (runner(some) - tuned).square().mean().backward()  # type: ignore[no-untyped-call]
    assert all(leaf.grad is not None for leaf in student.leaves.values())
    assert not any(p.grad is not None for p in pair_parameters(runner, student))
    student.leave()
    with torch.no_grad():
        assert torch.equal(runner(some), base)


def pair_parameters(runner: Runner, student: Student) -> list[torch.nn.Parameter]:
    own = {id(leaf) for leaf in student.leaves.values()}
    models = (runner.pipeline.unet, runner.pipeline.text_encoder)
    return [p for model in models for p in model.parameters() if id(p) not in own]


def test_a_students_layers_are_those_it_was_made_of(runner: Runner, pair: Pair) -> None:
    given = components(pair)
    student = Student(runner, given)
    found, halves = student.components("F32"), student.components("F16")
    student.leave()
    for name, component in given.items():
        assert found[name].layers.keys() == component.layers.keys()
        for module, layer in component.layers.items():
            for leaf, tensor in layer.tensors.items():
                values = found[name].layers[module].tensors[leaf].torch()
                assert torch.equal(values.flatten(), tensor.torch().flatten()), (module, leaf)
                assert halves[name].layers[module].tensors[leaf].dtype == "F16"


def test_features_are_those_of_every_block_and_tell_base_from_tuned(runner: Runner, pair: Pair) -> None:
    some = states(runner)
    names = {id(module): name for name, module in runner.denoiser.named_modules()}
    assert [names[id(block)] for block in blocks(runner.denoiser)] == [
        "down_blocks.0", "down_blocks.1", "up_blocks.0", "up_blocks.1", "mid_block",
    ]  # fmt: skip
    with record(runner.denoiser) as found:
        runner(some)
    assert len(found) == 5
    assert not runner.denoiser.mid_block._forward_hooks  # type: ignore[union-attr]
    features = Features(pair, runner, weight=0.5)
    with torch.no_grad():
        predicted, error = features.compare(runner, some)
        assert torch.equal(predicted, runner(some))
        runner.mix(1.0)
        _, none = features.compare(runner, some)
        runner.mix(0.0)
    assert float(error) > 0
    assert float(none) == 0


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
    (tmp_path / "a.txt").write_text("a small green star, on sand\n")
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


@pytest.mark.parametrize("own", [None, "bf16"])
def test_the_precision_of_ones_own_accelerator_is_left_alone(own: str | None) -> None:
    AcceleratorState._reset_state()
    mine = Accelerator(cpu=True, mixed_precision=own) if own else None
    with keep_accelerate():
        assert accelerator_of("fp16").mixed_precision == "fp16"
    assert AcceleratorState._shared_state.get("_mixed_precision") == own
    assert mine is None or mine.mixed_precision == own
    AcceleratorState._reset_state()


# Long ones.


@pytest.mark.slow
def test_two_processes_make_the_same_adapter_as_one(
    tmp_path: Path, prompts: Path, two_processes: Callable[..., str]
) -> None:
    command = [str(BASE), str(NEON), "--method", "trained", "--prompts", str(prompts), "--size", "90kB"]
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
    options = {"steps": 250, "cache": str(cache)}
    ours = yardstick.distilled("trained", 2, tmp_path / "ours.safetensors", peer.size, options)
    assert ours.size <= peer.size
    assert ours.noise <= 0.1 * peer.noise
