"""`si-hub train`: pictures in, an adapter that acts out; killed and gone on with, the same bytes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from diffusers import StableDiffusionPipeline

import si_hub
from si_hub import format
from si_hub.cli import main
from si_hub.errors import FileAccessError, MissingFile, UsageError
from tests.miniature import BASE, MINIATURE

FEW: dict[str, Any] = {"rank": 2, "steps": 4, "batch": 4, "layers": "attention", "save_every": 2}


class Killed(BaseException):
    """A process's end, as far as its files are concerned."""


def kill_after(steps: int) -> Any:
    def progress(done: int, total: int) -> None:
        if done >= steps:
            raise Killed

    return progress


@pytest.fixture(scope="module")
def whole(ink: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of few steps, made in one go."""
    path = tmp_path_factory.mktemp("whole") / "ink.safetensors"
    si_hub.train(BASE, ink, path, trigger_words=("ink style",), title="Ink", license="mit", **FEW)
    return path


def test_the_file_says_how_it_was_made_and_no_place_of_this_machine(whole: Path, ink: Path) -> None:
    adapter = format.read(whole, verify=True)
    training = adapter.about["training"]
    assert (training["pictures"], training["steps"], training["rank"], training["kept_step"]) == (8, 4, 2, 4)
    assert training["errors"][0] == [0, 1]
    assert training["errors"][-1][1] < 1
    assert adapter.about["trigger_words"] == ["ink style"]
    assert (adapter.about["title"], adapter.about["license"]) == ("Ink", "mit")
    said = json.dumps(adapter.about)
    assert str(ink) not in said
    assert str(BASE) not in said
    assert [path.name for path in whole.parent.iterdir()] == [whole.name]


def test_the_adapter_changes_what_is_drawn(whole: Path) -> None:
    pipe: Any = StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)
    si_hub.enable()
    states = torch.randn(1, 8, 8, 8), torch.tensor([500]), torch.randn(1, 7, 64)
    with torch.no_grad():
        before = pipe.unet(*states).sample
        pipe.load_styleinject_weights(whole)
        assert not torch.equal(pipe.unet(*states).sample, before)
        pipe.unload_styleinject_weights()
        assert torch.equal(pipe.unet(*states).sample, before)


@pytest.mark.parametrize("step", [1, 3])
def test_killed_and_gone_on_with_it_is_the_same_file(step: int, whole: Path, ink: Path, tmp_path: Path) -> None:
    output = tmp_path / "ink.safetensors"
    about: dict[str, Any] = {"trigger_words": ("ink style",), "title": "Ink", "license": "mit"}
    with pytest.raises(Killed):
        si_hub.train(BASE, ink, output, progress=kill_after(step), **about, **FEW)
    assert not output.exists()
    si_hub.train(BASE, ink, output, **about, **FEW)
    assert output.read_bytes() == whole.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


def test_other_pictures_start_afresh(ink: Path, tmp_path: Path) -> None:
    pictures, output = Path(shutil.copytree(ink, tmp_path / "pictures")), tmp_path / "out.safetensors"
    with pytest.raises(Killed):
        si_hub.train(BASE, pictures, output, progress=kill_after(3), **FEW)
    (pictures / "0.txt").write_text("something else", encoding="utf-8")
    shutil.rmtree(tmp_path / "fresh", ignore_errors=True)
    again = si_hub.train(BASE, pictures, output, **FEW)
    fresh = si_hub.train(BASE, pictures, tmp_path / "fresh.safetensors", **FEW)
    assert again.path.read_bytes() == fresh.path.read_bytes()


def test_folders_of_styles_are_branches_that_learn_apart(ink: Path, neon: Path, tmp_path: Path) -> None:
    output = tmp_path / "both.safetensors"
    found = si_hub.train(BASE, styles=(ink, neon), output=output, **{**FEW, "steps": 12})
    assert found.branches == ("ink", "neon")
    assert found.error < 1
    adapter = format.read(output)
    assert adapter.branches == ("ink", "neon")
    layer = next(iter(adapter.components["unet"].layers.values()))
    assert layer.branches == 2
    assert not layer.tensors["router.bias"].numpy().any()
    assert "router.weight" not in layer.tensors
    pipe: Any = StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)
    pipe.load_styleinject_weights(output)
    states = torch.randn(1, 8, 8, 8), torch.tensor([500]), torch.randn(1, 7, 64)
    with torch.no_grad():
        pipe.set_styles({"ink": 1.0})
        one = pipe.unet(*states).sample
        pipe.set_styles({"neon": 1.0})
        assert not torch.equal(pipe.unet(*states).sample, one)


@pytest.mark.parametrize(
    ("model", "options"),
    [("sdxl", {}), ("dit", {"resolution": 32}), ("base", {"text_encoder": True}), ("base", {"branches": 3}),
     ("base", {"transform": "restyle", "min_snr": 5.0, "noise_offset": 0.1, "checkpointing": True})],
)  # fmt: skip
def test_every_kind_of_pipeline_and_setting_learns(
    model: str, options: dict[str, Any], ink: Path, tmp_path: Path
) -> None:
    wish: dict[str, Any] = {**FEW, "steps": 6, "rate": 0.2, **options}
    found = si_hub.train(MINIATURE / model, ink, tmp_path / "out.safetensors", **wish)
    assert found.error < 1
    components = format.read(found.path).components
    assert ("text_encoder" in components) == bool(options.get("text_encoder"))
    assert all(layer.tensors["up.weight"].numpy().any() for layer in components[next(iter(components))].layers.values())


def test_pictures_of_validation_are_measured_and_not_learned(ink: Path, neon: Path, tmp_path: Path) -> None:
    plain = si_hub.train(BASE, ink, tmp_path / "a.safetensors", **FEW)
    held = si_hub.train(BASE, ink, tmp_path / "b.safetensors", validation=neon, **FEW)
    assert (plain.unseen, held.unseen) == (False, True)
    assert plain.error != held.error
    losses = [format.read(one.path).about["training"]["losses"] for one in (plain, held)]
    assert len(losses[0]) == len(losses[1])


def test_mistakes_are_told_before_any_work(ink: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    for options, error, said in (
        ({}, UsageError, "say one of them"),
        ({"pictures": ink, "styles": (ink,)}, UsageError, "say one of them"),
        ({"pictures": tmp_path / "none"}, MissingFile, "no folder with pictures"),
        ({"pictures": ink, "dtype": "int8"}, UsageError, "dtype: is no kind of number"),
        ({"pictures": ink, "rank": 0}, UsageError, "rank: is 1 or more"),
        ({"styles": (ink, ink.parent), "branches": 3}, UsageError, "branches: is how many folders"),
        ({"pictures": ink, "output": BASE / "model_index.json", "force": True}, FileAccessError, "is the base model"),
    ):
        with pytest.raises(error, match=said):
            si_hub.train(BASE, **{"output": output, **options})  # type: ignore[arg-type]
    output.write_bytes(b"mine")
    with pytest.raises(FileAccessError, match="already exists"):
        si_hub.train(BASE, ink, output)
    assert output.read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


def test_the_command_says_what_came_of_it(ink: Path, tmp_path: Path) -> None:
    words = [
        "train",
        str(BASE),
        str(ink),
        "-o",
        str(tmp_path / "o.safetensors"),
        "--steps",
        "2",
        "--rank",
        "1",
        "--json",
    ]
    ended = CliRunner().invoke(main, [*words, "--layers", "attention", "--trigger-words", "a, b"])
    assert ended.exit_code == 0, ended.stderr
    said = json.loads(ended.stdout)
    assert (said["pictures"], said["steps"], said["path"]) == (8, 2, str(tmp_path / "o.safetensors"))
    assert format.read(tmp_path / "o.safetensors").about["trigger_words"] == ["a", "b"]
    assert CliRunner().invoke(main, words).exit_code == FileAccessError.exit_code
