"""Diffusers folders as base models, read by headers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from si_hub import architectures
from si_hub.architectures import from_folder
from si_hub.errors import BaseMismatch, FormatError, MissingFile, SiHubError


def live_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the live UNet's state dict."""
    from diffusers import UNet2DConditionModel

    model: Any = UNet2DConditionModel.from_pretrained(folder / "unet")
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def test_a_pipeline_folder_gives_every_module_of_its_models(tiny_folder: Path) -> None:
    found = from_folder(tiny_folder)
    assert found.name == "StableDiffusionPipeline"
    assert found.prediction_type == "v_prediction"
    assert {name: model.class_name for name, model in found.components.items()} == {
        "unet": "UNet2DConditionModel",
        "text_encoder": "CLIPTextModel",
    }
    modules = found.components["unet"].modules
    live = live_shapes(tiny_folder)
    assert {f"{path}.weight": module.shape for path, module in modules.items()} == {
        name: shape for name, shape in live.items() if name.endswith(".weight")
    }
    assert {path for path, module in modules.items() if module.bias} == {
        name.removesuffix(".bias") for name in live if name.endswith(".bias")
    }


def test_a_scheduler_s_infinity_is_no_damage(tiny_folder: Path, tmp_path: Path) -> None:
    # diffusers' own DPM-Solver writes lambda_min_clipped: -Infinity, which JSON does not have.
    from diffusers import DPMSolverMultistepScheduler

    shutil.copytree(tiny_folder, tmp_path / "base")
    scheduler: Any = DPMSolverMultistepScheduler(prediction_type="v_prediction")
    scheduler.save_pretrained(tmp_path / "base" / "scheduler")
    assert "-Infinity" in (tmp_path / "base" / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8")
    assert from_folder(tmp_path / "base").prediction_type == "v_prediction"


def test_text_model_is_restored_whichever_transformers_saved_the_folder(tiny_folder: Path) -> None:
    modules = from_folder(tiny_folder).components["text_encoder"].modules
    assert "text_model.encoder.layers.1.mlp.fc1" in modules
    assert all(path.startswith("text_model.") for path in modules)


@pytest.mark.parametrize("variant", ["diffusion_pytorch_model.fp16", "model", "diffusion_pytorch_model.non_ema"])
def test_variants_and_other_file_names_are_found(tiny_folder: Path, tmp_path: Path, variant: str) -> None:
    folder = tmp_path / "unet"
    shutil.copytree(tiny_folder / "unet", folder)
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / f"{variant}.safetensors")
    expected = from_folder(tiny_folder).components["unet"].modules
    assert from_folder(folder).components["unet"].modules == expected


def test_a_sharded_component_is_read_through_its_index(tiny_folder: Path, tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    model: Any = UNet2DConditionModel.from_pretrained(tiny_folder / "unet")
    model.save_pretrained(tmp_path / "unet", max_shard_size="200KB")
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 1
    expected = from_folder(tiny_folder).components["unet"].modules
    assert from_folder(tmp_path / "unet").components["unet"].modules == expected


def test_a_shard_outside_the_folder_is_not_followed(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}', encoding="utf-8")
    outside = tiny_folder / "unet" / "diffusion_pytorch_model.safetensors"
    index = {"weight_map": {"conv_in.weight": str(outside)}}
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(MissingFile, match=r"diffusion_pytorch_model\.safetensors"):
        from_folder(tmp_path)


def test_a_component_folder_is_named_by_its_folder_or_its_class(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder / "text_encoder", tmp_path / "text_encoder_2")
    shutil.copytree(tiny_folder / "unet", tmp_path / "mine")
    assert set(from_folder(tmp_path / "text_encoder_2").components) == {"text_encoder_2"}
    assert set(from_folder(tmp_path / "mine").components) == {"unet"}


def test_every_transformer_of_a_pipeline_with_several_is_a_component(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder / "unet", tmp_path / "transformer")
    shutil.copytree(tiny_folder / "unet", tmp_path / "transformer_2")
    index = {name: ["diffusers", "UNet2DConditionModel"] for name in ("transformer", "transformer_2")}
    (tmp_path / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    assert from_folder(tmp_path).components.keys() == {"transformer", "transformer_2"}


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="no such folder"):
        from_folder(tmp_path / "missing")
    with pytest.raises(MissingFile, match=r"neither model_index.json nor config.json"):
        from_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}', encoding="utf-8")
    with pytest.raises(BaseMismatch, match="a AutoencoderKL is no model that adapters are for"):
        from_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}', encoding="utf-8")
    with pytest.raises(MissingFile, match=r"no safetensors weights.*safe_serialization"):
        from_folder(tmp_path)
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "Pipeline", "vae": ["diffusers", "AutoencoderKL"]}', encoding="utf-8"
    )
    with pytest.raises(BaseMismatch, match="no UNet, transformer or text encoder"):
        from_folder(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{", '{"a": NaN}', '{"a": 1, "a": 2}', "\xff"])
def test_broken_json_is_a_typed_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "model_index.json").write_text(text, encoding="latin-1")
    with pytest.raises(FormatError) as caught:
        from_folder(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_an_index_without_a_map_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}', encoding="utf-8")
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text("{}", encoding="utf-8")
    with pytest.raises(SiHubError, match="no weight_map"):
        from_folder(tmp_path)


def test_resolve_takes_a_name_a_folder_and_a_loaded_architecture(tiny_folder: Path) -> None:
    sdxl = architectures.load("sdxl")
    assert architectures.resolve("sdxl") is sdxl
    assert architectures.resolve(sdxl) is sdxl
    assert set(architectures.resolve(tiny_folder).components) == {"unet", "text_encoder"}
