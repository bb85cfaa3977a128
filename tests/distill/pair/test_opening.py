"""Models as they lie on disk: every name of a checkpoint finds its place, and every value is diffusers' own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from examples.miniature.checkpoints import unfold, vae_key
from si_hub.architectures.layouts import sgm
from si_hub.distill.pair.opening import open_model
from si_hub.errors import BaseMismatch, MissingFile
from tests.distill.checkpoints import Shape, model_of, open_clip, original, prefixed, write
from tests.distill.pair.live import expect_live, values
from tests.miniature import BASE, NEON, copy_base


def test_a_folder_is_read_as_its_own_files_say() -> None:
    model = open_model(BASE)
    stored = load_file(BASE / "unet" / "diffusion_pytorch_model.safetensors")
    assert values(model, "unet").keys() == stored.keys()
    assert all(torch.equal(model.components["unet"][name].torch(), stored[name]) for name in stored)
    assert (model.layout, model.prediction_type, model.denoiser) == ("folder", "v_prediction", "unet")
    assert all(name.startswith("text_model.") for name in model.components["text_encoder"])


def test_the_miniatures_checkpoint_has_the_values_of_diffusers_own_loader() -> None:
    model, live = open_model(NEON, base=open_model(BASE)), unfold(NEON)
    for component in ("unet", "text_encoder", "vae"):
        expect_live(model, component, getattr(live, component))
    assert all(weight.tensor for weight in model.components["unet"].values()), "renamed, so the bytes are as stored"
    assert model.ignored == {}
    assert model.prediction_type == "v_prediction"


def sdxl_checkpoint(folder: Path) -> dict[str, torch.Tensor | Shape]:
    """The pipeline of a folder under the names of Stability's code."""
    held = {name: load_file(next((folder / name).glob("*.safetensors"))) for name in
            ("unet", "vae", "text_encoder", "text_encoder_2")}  # fmt: skip
    first = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in held["text_encoder"].items()}
    names = sgm(model_of("UNet2DConditionModel", held["unet"]))
    return {
        **original(names, held["unet"], "model.diffusion_model."),
        **{f"first_stage_model.{vae_key(name, 2)}": value for name, value in held["vae"].items()},
        **prefixed(first, "conditioner.embedders.0.transformer."),
        **open_clip(held["text_encoder_2"], "conditioner.embedders.1.model."),
    }


def test_an_sdxl_checkpoint_has_the_values_of_diffusers_own_loader(sdxl_folder: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionXLPipeline

    file = write(tmp_path / "tuned.safetensors", sdxl_checkpoint(sdxl_folder))
    live = StableDiffusionXLPipeline.from_single_file(str(file), config=str(sdxl_folder), local_files_only=True)
    model = open_model(file, base=open_model(sdxl_folder))
    for component in ("unet", "text_encoder", "text_encoder_2", "vae"):
        expect_live(model, component, getattr(live, component))


def test_a_sharded_folder_and_an_fp16_variant_are_read(tmp_path: Path) -> None:
    folder = copy_base(tmp_path / "base")
    whole = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    halves = [dict(list(whole.items())[start::2]) for start in (0, 1)]
    files = [f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for half, file in zip(halves, files, strict=True):
        save_file(half, folder / "unet" / file)
    index = {name: file for half, file in zip(halves, files, strict=True) for name in half}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"weight_map": index}), encoding="utf-8"
    )
    (folder / "text_encoder" / "model.safetensors").rename(folder / "text_encoder" / "model.fp16.safetensors")
    model = open_model(folder)
    assert {name: weight.shape for name, weight in model.components["unet"].items()} == {
        name: tuple(value.shape) for name, value in whole.items()
    }
    assert model.components["text_encoder"].keys() == open_model(BASE).components["text_encoder"].keys()


def test_a_model_that_only_its_folder_could_explain_is_refused_without_one() -> None:
    with pytest.raises(BaseMismatch, match="Name a diffusers folder"):
        open_model(NEON)


def test_a_repository_that_is_not_cached_says_how_to_fetch_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingFile, match="hf download somebody/model"):
        open_model("somebody/model")


@pytest.mark.parametrize("path", ["../model.safetensors", "./model", "-base/model", "models/model--v2"])
def test_a_path_that_is_no_repository_s_name_is_a_missing_file(path: str) -> None:
    with pytest.raises(MissingFile, match="no such file or folder"):
        open_model(path)


def test_a_cached_repository_is_opened_without_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://localhost:9")
    commit = "0123456789abcdef0123456789abcdef01234567"
    copy_base(tmp_path / "models--somebody--model" / "snapshots" / commit)
    (tmp_path / "models--somebody--model" / "refs").mkdir()
    (tmp_path / "models--somebody--model" / "refs" / "main").write_text(commit, encoding="utf-8")
    for name in ("somebody/model", f"somebody/model@{commit}"):
        model = open_model(name)
        assert (model.repo_id, model.revision, model.layout) == ("somebody/model", commit, "folder")
        assert model.components["unet"].keys() == open_model(BASE).components["unet"].keys()
