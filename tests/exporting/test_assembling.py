"""Layers under their names in a format, held against what PEFT, diffusers and the converters make of the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import PeftModel
from safetensors.torch import load_file, save_file

import si_hub
from si_hub import format
from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.errors import ConversionRefused
from si_hub.storage.tensors import Tensor
from tests.miniature import BASE, MINIATURE

LINEAR = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
OTHER = "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0"
ALONE = "down_blocks.0.resnets.0.conv1"


def numbers(*shape: int) -> Tensor:
    return Tensor.from_numpy((0.1 * np.random.default_rng(sum(shape)).standard_normal(shape)).astype("<f4"))


def load_unet() -> Any:
    return UNet2DConditionModel.from_pretrained(BASE, subfolder="unet")


def predict(unet: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    latents, text = torch.randn(1, 8, 8, 8, generator=generator), torch.randn(1, 7, 64, generator=generator)
    with torch.no_grad():
        noise: torch.Tensor = unet(latents, 500, text).sample
    return noise


@pytest.fixture
def biased(tmp_path: Path) -> Path:
    """Pairs of scale 3/2 with a bias and without, and a bias alone."""
    unet = load_unet()
    layers = {}
    for path in (LINEAR, OTHER):
        out, into = unet.get_submodule(path).weight.shape
        layers[path] = Layer({"down.weight": numbers(2, into), "up.weight": numbers(out, 2)}, 3.0)
    layers[LINEAR].tensors["bias_delta"] = numbers(unet.get_submodule(LINEAR).out_features)
    layers[ALONE] = Layer({"bias_delta": numbers(unet.get_submodule(ALONE).out_channels)})
    adapter = Adapter(BaseModel("StableDiffusionPipeline"), {"unet": Component("UNet2DConditionModel", layers)})
    format.write(adapter, tmp_path / "biased.safetensors")
    return tmp_path / "biased.safetensors"


def merge_by_hand(unet: Any, file: Path) -> Any:
    """The base with every difference added, by docs/FORMAT.md's formula written out here."""
    held = load_file(file)
    with torch.no_grad():
        for path in (LINEAR, OTHER, ALONE):
            module = unet.get_submodule(path)
            if (up := held.get(f"unet.{path}.up.weight")) is not None:
                module.weight += 1.5 * up @ held[f"unet.{path}.down.weight"]
            if (bias := held.get(f"unet.{path}.bias_delta")) is not None:
                module.bias += bias
    return unet


def test_biases_are_those_of_pairs_for_diffusers_and_peft(biased: Path, tmp_path: Path) -> None:
    expected = predict(merge_by_hand(load_unet(), biased))
    assert (expected - predict(load_unet())).abs().max() > 1e-3
    folder = si_hub.export(biased, tmp_path / "peft", to="peft", base=BASE, check=True).paths[0]
    torch.testing.assert_close(predict(PeftModel.from_pretrained(load_unet(), folder)), expected, rtol=0, atol=1e-5)
    file = si_hub.export(biased, f"{tmp_path}/", to="diffusers", base=BASE, check=True).paths[0]
    pipe = StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)
    pipe.load_lora_weights(file, weight_name=file.name)
    torch.testing.assert_close(predict(pipe.unet), expected, rtol=0, atol=1e-5)


def load_dora(file: Path) -> torch.Tensor:
    pipe = StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)
    pipe.load_lora_weights(file, weight_name=file.name)
    assert any("lora_magnitude_vector" in name for name, _ in pipe.unet.named_parameters())
    return predict(pipe.unet)


def test_dora_of_peft_stays_what_it_is_for_diffusers_and_peft(tmp_path: Path) -> None:
    source = MINIATURE / "peers" / "peft_dora.safetensors"
    expected = load_dora(source)
    assert (expected - predict(load_unet())).abs().max() > 1e-3
    file = si_hub.export(source, f"{tmp_path}/", to="diffusers", base=BASE, check=True).paths[0]
    assert load_file(file).keys() == load_file(source).keys()
    torch.testing.assert_close(load_dora(file), expected, rtol=0, atol=1e-5)
    folder = si_hub.export(source, tmp_path / "peft", to="peft", base=BASE, check=True).paths[0]
    torch.testing.assert_close(predict(PeftModel.from_pretrained(load_unet(), folder)), expected, rtol=0, atol=1e-5)


def test_a_pair_beside_dora_has_magnitudes_that_change_nothing(tmp_path: Path) -> None:
    """Convolutions and linear layers of LyCORIS's DoRA, a few of them made plain pairs: kohya's file is the oracle."""
    source = MINIATURE / "peers" / "lycoris_dora.safetensors"
    plain = ("mid_block_attentions_0", "resnets_0_conv1")
    state = {
        name: tensor for name, tensor in load_file(source).items()
        if not (name.endswith("dora_scale") and any(part in name for part in plain))
    }  # fmt: skip
    save_file(state, tmp_path / "mixed.safetensors")
    found = si_hub.export(tmp_path / "mixed.safetensors", to="diffusers", base=BASE, check=True)
    assert found.check is not None
    assert found.check.largest_error < 1e-5
    kinds = [name.endswith("lora_magnitude_vector") for name in load_file(found.paths[0])]
    assert kinds.count(True) * 3 == len(kinds)
    pipe = StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)
    si_hub.enable()
    pipe.load_styleinject_weights(tmp_path / "mixed.safetensors")
    torch.testing.assert_close(load_dora(found.paths[0]), predict(pipe.unet), rtol=0, atol=1e-5)


def test_norms_have_no_place_beside_pairs(tmp_path: Path) -> None:
    norm = "mid_block.resnets.0.norm1"
    size = load_unet().get_submodule(norm).num_channels
    layer = Layer({"weight_delta": numbers(size), "bias_delta": numbers(size)})
    adapter = Adapter(BaseModel("StableDiffusionPipeline"), {"unet": Component("UNet2DConditionModel", {norm: layer})})
    format.write(adapter, tmp_path / "norm.safetensors")
    for rank in (None, 2):
        with pytest.raises(ConversionRefused, match="diffusers' format has no place for a layer's"):
            si_hub.export(tmp_path / "norm.safetensors", to="diffusers", base=BASE, rank=rank)
    back = si_hub.export(tmp_path / "norm.safetensors", to="kohya", base=BASE, check=True)
    assert {name.rpartition(".")[2] for name in load_file(back.paths[0])} == {"w_norm", "b_norm"}


def wan(folder: Path) -> Path:
    files = []
    for name, size in (("style_high", 1.0), ("style_low", 2.0)):
        stem = "diffusion_model.blocks.0.self_attn.q"
        held = {f"{stem}.lora_A.weight": torch.full((2, 5120), size), f"{stem}.lora_B.weight": torch.ones(5120, 2)}
        save_file(held, folder / f"{name}.safetensors")
        files.append(folder / f"{name}.safetensors")
    si_hub.convert(files, folder / "style.styleinject.safetensors", base="wan2.2-t2v-a14b")
    return folder / "style.styleinject.safetensors"


@pytest.mark.parametrize(
    ("to", "stem"),
    [("kohya", "lora_unet_blocks_0_self_attn_q.lora_down.weight"),
     ("comfy", "diffusion_model.blocks.0.self_attn.q.lora_down.weight"),
     ("diffusers", "transformer.blocks.0.attn1.to_q.lora_A.weight")],
)  # fmt: skip
def test_two_denoisers_have_a_file_each(to: str, stem: str, tmp_path: Path) -> None:
    found = si_hub.export(wan(tmp_path), to=to, check=to == "comfy")
    assert [path.name for path in found.paths] == [f"style.{to}.{noise}_noise.safetensors" for noise in ("high", "low")]
    assert [float(load_file(path)[stem][0, 0]) for path in found.paths] == [1.0, 2.0]
    assert "a file each" in found.notes[0]


def test_names_that_only_one_base_has_are_found_in_its_prefixes(tmp_path: Path) -> None:
    name = "diffusion_model.llm_adapter.blocks.0.self_attn.q_proj"
    held = {f"{name}.lora_A.weight": torch.ones(2, 1024), f"{name}.lora_B.weight": torch.ones(1024, 2)}
    save_file(held, tmp_path / "anima.safetensors")
    found = si_hub.export(tmp_path / "anima.safetensors", to="kohya", base="anima", check=True)
    assert "lora_unet_llm_adapter_blocks_0_self_attn_q_proj.lora_up.weight" in load_file(found.paths[0])
