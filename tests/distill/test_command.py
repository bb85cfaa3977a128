"""The command `si-hub distill`: what it prints, what it refuses, and how early."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from si_hub import architectures
from si_hub.architectures.layouts import sgm
from si_hub.cli import main
from si_hub.distill import distill
from si_hub.distill.command import _plan
from si_hub.distill.request import Request
from si_hub.errors import BaseMismatch, CannotRun, ConversionRefused, FormatError, MissingFile, SiHubError
from tests.distill.checkpoints import original, shapes_of, write
from tests.killing import python
from tests.miniature import BASE, KOHYA_LORA, NEON, copy_base, open_pair
from tests.systems import posix_alone

CONV_IN = "model.diffusion_model.input_blocks.0.0.weight"


def sdxl(folder: Path) -> Path:
    unet = architectures.load("sdxl").components["unet"]
    return write(folder / "xl.safetensors", original(sgm(unet), dict(shapes_of(unet)), "model.diffusion_model."))


def full(folder: Path, channels: int = 4) -> Path:
    """A single file of a base that is known by its header: Stable Diffusion 1.5's UNet, zeros without a byte."""
    unet = architectures.load("sd15").components["unet"]
    shapes = dict(shapes_of(unet)) | {"conv_in.weight": (320, channels, 3, 3)}
    return write(folder / f"sd15-{channels}.safetensors", original(sgm(unet), shapes, "model.diffusion_model."))


def cut(folder: Path) -> Path:
    file = full(folder, 8)
    os.truncate(file, 1_000_000)
    return file


def inpainting(folder: Path) -> Path:
    return write(folder / "nine.safetensors", {**load_file(NEON), CONV_IN: torch.zeros(48, 9, 3, 3)})


def pickled(folder: Path) -> Path:
    torch.save({"state_dict": {**load_file(NEON), CONV_IN: torch.zeros(48, 9, 3, 3)}}, folder / "nine.ckpt")
    return folder / "nine.ckpt"


def halved(folder: Path) -> Path:
    file = pickled(folder)
    os.truncate(file, file.stat().st_size // 2)
    return file


def truncated(folder: Path) -> Path:
    (folder / "short.safetensors").write_bytes(NEON.read_bytes()[:100_000])
    return folder / "short.safetensors"


def epsilon(folder: Path) -> Path:
    return write(folder / "eps.safetensors", load_file(NEON), {"modelspec.prediction_type": "epsilon"})


def stranger(folder: Path) -> Path:
    draw = torch.Generator().manual_seed(0)
    values = {name: torch.randn(value.shape, generator=draw) for name, value in load_file(NEON).items()}
    return write(folder / "stranger.safetensors", values)


def copied(folder: Path) -> Path:
    return copy_base(folder / "copy")


#: What is wrong → the base or how it is made, how the tuned model is made, its error.
WRONG: dict[str, tuple[Path | Callable[[Path], Path], Callable[[Path], Path], type[SiHubError]]] = {
    "an SDXL checkpoint": (BASE, sdxl, BaseMismatch),
    "an inpainting model": (BASE, inpainting, BaseMismatch),
    "an inpainting model's pickle": (BASE, pickled, BaseMismatch),
    "a truncated file": (BASE, truncated, FormatError),
    "a truncated pickle": (BASE, halved, FormatError),
    "another prediction": (BASE, epsilon, BaseMismatch),
    "a stranger": (BASE, stranger, BaseMismatch),
    "a LoRA": (BASE, lambda _: KOHYA_LORA, ConversionRefused),
    "swapped": (NEON, lambda _: BASE, BaseMismatch),
    "the same path": (BASE, lambda _: BASE, BaseMismatch),
    "a copy": (BASE, copied, BaseMismatch),
    "a single-file base and SDXL": (full, sdxl, BaseMismatch),
    "a single-file base and an inpainting model": (full, lambda folder: full(folder, 9), BaseMismatch),
    "a single-file base and a truncated file": (full, cut, FormatError),
    "a single-file base and a LoRA": (full, lambda _: KOHYA_LORA, ConversionRefused),
    "a single-file base and nothing": (full, lambda folder: folder / "nothing.safetensors", MissingFile),
    "a single-file base and an unknown repository": (full, lambda _: Path("somebody/nothing"), MissingFile),
    "a LoRA as the base": (KOHYA_LORA, full, ConversionRefused),
}

#: What only torch may open: its own files, and nothing in them but tensors.
BY_TORCH = {"an inpainting model's pickle"}
#: Runs the command and says which of the heavy libraries it needed for its answer.
WATCHED = """
import sys
from si_hub.cli import main
try:
    main(sys.argv[1:])
finally:
    print(*{"torch", "diffusers", "transformers"} & set(sys.modules))
"""


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_pair_is_one_line_before_what_is_not_needed_is_imported(what: str, tmp_path: Path) -> None:
    given, make, error = WRONG[what]
    base, tuned = given if isinstance(given, Path) else given(tmp_path), make(tmp_path)
    before = sorted(tmp_path.iterdir())
    command = [sys.executable, "-c", WATCHED, "distill", str(base), str(tuned), "-o", str(tmp_path / "out.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == error.exit_code
    assert done.stderr.startswith("si-hub: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout.split() == (["torch"] if what in BY_TORCH else [])
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "magic"], "magic: no such method (expected svd, calibrated, trained)"),
        (["--curve", "--sharing"], "--curve and --sharing are two questions"),
        (["--rank", "4", "--size", "40kB"], "three ways to say one thing"),
        (["--fidelity", "1"], "--fidelity: a fidelity lies between 0 and 1"),
        (["--dtype", "int4"], "--dtype: no such dtype"),
        (["--device", "gpu"], "--device: is no device (expected cpu"),
        (["--device", "cpu:1", "--curve"], "--device: this machine has no such device (expected cpu"),
        (["--router", "learned", "--method", "trained"], "--router: is for several tuned models"),
        (["--steps", "3", "--set", "steps=4"], "steps: is nothing to --set, or is said twice"),
        (["--set", "size=40000"], "size: is nothing to --set, or is said twice"),
    ],
)
def test_a_call_that_makes_no_sense_is_refused_before_a_model_is_looked_for(
    options: list[str], said: str, tmp_path: Path
) -> None:
    result = CliRunner().invoke(main, ["distill", str(tmp_path / "nobase"), str(tmp_path / "notuned"), *options])
    assert result.exit_code == 2
    assert said in result.output


@pytest.mark.parametrize("mode", [["--method", "calibrated"], ["--curve"], ["--sharing"]])
@pytest.mark.parametrize(
    "name", ["base", "tuned", "sizes", "progress", "options", "curve", "json_", "seed", "settings"]
)
def test_only_options_of_methods_are_set(mode: list[str], name: str, tmp_path: Path) -> None:
    models = [str(tmp_path / "nobase"), str(tmp_path / "notuned"), str(tmp_path / "nothing")]
    result = CliRunner().invoke(main, ["distill", *models, *mode, "--set", f"{name}=3"])
    assert result.exit_code == 2, result.exception
    assert result.stderr.startswith(f"si-hub: {name}: ")


def test_what_a_chosen_method_does_not_do_is_said(tmp_path: Path) -> None:
    output = str(tmp_path / "out.safetensors")
    told = CliRunner().invoke(main, ["distill", str(BASE), str(NEON), "-o", output, "--embeddings"])
    assert told.exit_code == 2
    assert "--embeddings: the method calibrated weighs embeddings" in told.output
    unet = load_file(BASE / "unet" / "diffusion_pytorch_model.safetensors")
    tuned = [
        str(write(tmp_path / f"{k}.safetensors", {**unet, "conv_in.bias": unet["conv_in.bias"] + k})) for k in (1, 2)
    ]
    several = CliRunner().invoke(main, ["distill", str(BASE / "unet"), *tuned, "-o", output])
    assert several.exit_code == CannotRun.exit_code
    assert "cannot be run" in several.output
    assert not Path(output).exists()


def test_other_prompts_are_another_plan(tmp_path: Path) -> None:
    told = tmp_path / "prompts.txt"

    pair = open_pair(NEON)

    def plan(text: str) -> dict[str, object]:
        told.write_text(text, encoding="utf-8")
        return _plan([pair], Request(prompts=told), "trained")

    assert plan("a fox") == plan("a fox")
    assert plan("a fox") != plan("a cat")


def test_the_default_output_lies_beside_the_tuned_model(tmp_path: Path) -> None:
    tuned = shutil.copy(NEON, tmp_path / "neon.safetensors")
    assert distill(BASE, tuned, method="svd", rank=1).path == tmp_path / "neon.styleinject.safetensors"


def test_interrupted_it_goes_on_with_what_is_finished(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(BASE, NEON, output=tmp_path / "neon.safetensors", method="svd", rank=2, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == [".neon.safetensors.work"]
    result = distill(BASE, NEON, output=tmp_path / "neon.safetensors", method="svd", rank=2)
    assert any("finished parts of an interrupted run" in note for note in result.notes)
    whole = distill(BASE, NEON, output=tmp_path / "whole.safetensors", method="svd", rank=2)
    assert whole.path.read_bytes() == result.path.read_bytes()
    assert not any("interrupted" in note for note in whole.notes)


@posix_alone
@pytest.mark.slow
def test_ctrl_c_says_that_the_work_is_kept(tmp_path: Path) -> None:
    child = python("-m", "si_hub.cli", "distill", BASE, NEON, "--method", "svd", "-o", tmp_path / "neon")
    assert child.end(lambda: list(tmp_path.glob(".neon.work/*.safetensors")), signal.SIGINT) == 130
    assert "the same command goes on from there" in child.err()
    assert not (tmp_path / "neon").exists()
