"""Files that keep their scales beside the tensors, folders, and two files for two denoisers: each comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import si_hub
from si_hub.errors import ConversionRefused

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
TEXT = "text_model.encoder.layers.0.self_attn.k_proj"
WAN = "blocks.0.self_attn.q"


def draw(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float16)


def pair(stem: str, width: int, rank: int = 2, bias: bool = False) -> dict[str, Any]:
    held = {f"{stem}.lora_A.weight": draw(rank, width), f"{stem}.lora_B.weight": draw(width, rank)}
    return held | ({f"{stem}.lora_B.bias": draw(width)} if bias else {})


def same(back: Path, source: Path) -> None:
    found, expected = load_file(back), load_file(source)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


def scales(config: dict[str, Any], names: list[str]) -> dict[str, float]:
    """alpha / rank by the configuration's words, for names that its patterns have whole."""
    ranks, alphas = config.get("rank_pattern", {}), config.get("alpha_pattern", {})
    return {name: alphas.get(name, config["lora_alpha"]) / ranks.get(name, config["r"]) for name in names}


def test_scales_in_the_header_of_a_diffusers_file_come_back(tmp_path: Path) -> None:
    names = [f"{BLOCK}.to_q", f"{BLOCK}.to_k"]
    arrays = pair(f"unet.{names[0]}", 320) | pair(f"unet.{names[1]}", 320, rank=4)
    table = {"unet.r": 2, "unet.lora_alpha": 3, "unet.rank_pattern": {names[1]: 4}, "unet.alpha_pattern": {names[1]: 1}}
    save_file(arrays, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(table)})
    si_hub.convert(tmp_path / "a.safetensors", base="sd15")
    found = si_hub.export(tmp_path / "a.styleinject.safetensors", to="original")
    same(found.paths[0], tmp_path / "a.safetensors")
    with safe_open(found.paths[0], "np") as opened:
        said = json.loads(opened.metadata()["lora_adapter_metadata"])
    config = {key.removeprefix("unet."): value for key, value in said.items()}
    assert scales(config, names) == {names[0]: 1.5, names[1]: 0.25}


def test_a_folder_of_peft_comes_back_as_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    name = f"{BLOCK}.to_q"
    save_file(pair(f"base_model.model.{name}", 320), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 8}), "utf-8")
    si_hub.convert(folder, tmp_path / "ours.safetensors", base="sd15")
    found = si_hub.export(tmp_path / "ours.safetensors", tmp_path / "back", to="original")
    assert found.paths == (tmp_path / "back",)
    same(tmp_path / "back" / "adapter_model.safetensors", folder / "adapter_model.safetensors")
    config = json.loads((tmp_path / "back" / "adapter_config.json").read_text("utf-8"))
    assert scales(config, [name]) == {name: 4.0}


def test_folders_of_components_come_back_as_folders(tmp_path: Path) -> None:
    for component, name, width in (("unet", f"{BLOCK}.to_q", 320), ("text_encoder", TEXT, 768)):
        folder = tmp_path / "mine" / component
        folder.mkdir(parents=True)
        save_file(pair(f"base_model.model.{name}", width), folder / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6 if component == "unet" else 2}
        (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    si_hub.convert(tmp_path / "mine", tmp_path / "ours.safetensors", base="sd15")
    si_hub.export(tmp_path / "ours.safetensors", tmp_path / "back", to="original")
    for component in ("unet", "text_encoder"):
        inner = Path(component) / "adapter_model.safetensors"
        same(tmp_path / "back" / inner, tmp_path / "mine" / inner)
    config = json.loads((tmp_path / "back" / "unet" / "adapter_config.json").read_text("utf-8"))
    assert config["lora_alpha"] / config["r"] == 3


def wan(folder: Path, name: str, seed: int) -> Path:
    held = pair(f"diffusion_model.{WAN}", 5120)
    save_file({key: array * np.float16(seed) for key, array in held.items()}, folder / name)
    return folder / name


def test_two_files_for_two_denoisers_come_back_as_two(tmp_path: Path) -> None:
    files = [wan(tmp_path, "style_high.safetensors", 1), wan(tmp_path, "style_low.safetensors", 2)]
    si_hub.convert(files, tmp_path / "ours.safetensors", base="wan2.2-t2v-a14b")
    found = si_hub.export(tmp_path / "ours.safetensors", f"{tmp_path}/back/", to="original")
    assert [path.name for path in found.paths] == ["style_high.safetensors", "style_low.safetensors"]
    for path, source in zip(found.paths, files, strict=True):
        same(path, source)


def test_words_that_became_fields_of_the_document_stand_in_the_header_again(tmp_path: Path) -> None:
    stem = f"lora_unet_{BLOCK.replace('.', '_')}_to_q"
    arrays = {f"{stem}.lora_down.weight": draw(2, 320), f"{stem}.lora_up.weight": draw(320, 2)}
    said = {
        "modelspec.title": "Mine", "modelspec.author": "Anna", "modelspec.trigger_phrase": "ink, line",
        "ss_output_name": "mine-000004", "ss_network_dim": "2", "modelspec.architecture": "stable-diffusion-v1/lora",
    }  # fmt: skip
    save_file(arrays, tmp_path / "a.safetensors", said)
    si_hub.convert(tmp_path / "a.safetensors", base="sd15")
    found = si_hub.export(tmp_path / "a.styleinject.safetensors", to="original")
    with safe_open(found.paths[0], "np") as opened:
        back = opened.metadata()
    assert {key: back.get(key) for key in said} == said


def test_a_bias_that_a_scale_made_is_not_that_of_the_file(tmp_path: Path) -> None:
    arrays = pair(f"unet.{BLOCK}.to_out.0", 320, bias=True)
    save_file(arrays, tmp_path / "plain.safetensors")
    table = {"unet.r": 2, "unet.lora_alpha": 3}
    save_file(arrays, tmp_path / "scaled.safetensors", {"lora_adapter_metadata": json.dumps(table)})
    for name in ("plain", "scaled"):
        si_hub.convert(tmp_path / f"{name}.safetensors", base="sd15")
    same(
        si_hub.export(tmp_path / "plain.styleinject.safetensors", to="original").paths[0],
        tmp_path / "plain.safetensors",
    )
    with pytest.raises(ConversionRefused, match="up_bias became something else"):
        si_hub.export(tmp_path / "scaled.styleinject.safetensors", to="original")
