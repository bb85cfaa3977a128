"""A model on disk: which of its components removes the noise, how large it is, and what its folder says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from si_hub.architectures import Architecture
from si_hub.distill import open_model
from si_hub.distill.pair.model import ModelOnDisk, component_folder, name_of, vae_class
from tests.miniature import BASE, NEON


@pytest.mark.parametrize(
    ("components", "denoiser"),
    [(["text_encoder", "unet"], "unet"), (["text_encoder", "transformer"], "transformer"), (["prior"], "prior"),
     (["text_encoder", "text_encoder_2"], "text_encoder")],
)  # fmt: skip
def test_the_denoiser_is_the_component_that_removes_the_noise(components: list[str], denoiser: str) -> None:
    model = ModelOnDisk(Path("x"), "folder", Architecture("x", {}), None, {name: {} for name in components})
    assert model.denoiser == denoiser


def test_a_model_has_as_many_numbers_as_its_parameters() -> None:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)
    expected = sum(value.numel() for part in (pipe.unet, pipe.text_encoder) for value in part.parameters())
    assert open_model(BASE).size == expected


def test_a_folder_s_components_have_their_own_configurations_and_a_file_has_none() -> None:
    base = open_model(BASE)
    assert base.config("unet") == json.loads((BASE / "unet" / "config.json").read_text(encoding="utf-8"))
    assert base.config("nothing") == {}
    assert open_model(NEON, base=base).config("unet") == {}


def test_a_component_lies_in_the_pipeline_s_folder_or_is_the_folder() -> None:
    assert component_folder(BASE, "unet") == BASE / "unet"
    assert component_folder(BASE / "unet", "unet") == BASE / "unet"


def test_the_autoencoder_is_named_by_its_class(tmp_path: Path) -> None:
    assert vae_class(BASE) == "AutoencoderKL"
    assert vae_class(tmp_path) == ""


def test_a_name_is_never_empty_and_never_a_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ink" / "unet").mkdir(parents=True)
    (tmp_path / "link").symlink_to("ink")
    monkeypatch.chdir(tmp_path / "ink" / "unet")
    names = {".": "unet", "..": "ink", "../..": tmp_path.name, "../../link": "link", "a/b.safetensors": "b.safetensors"}
    assert {path: name_of(Path(path)) for path in names} == names
    assert name_of(Path("/")) == "model"
