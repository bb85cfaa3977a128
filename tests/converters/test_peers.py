"""The same files through the libraries that made them: diffusers' names, PEFT's and LyCORIS's weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from si_hub import architectures, converters
from si_hub.adapter import Layer
from si_hub.architectures import Architecture

MakeSpots = Callable[..., list[Any]]
WriteArrays = Callable[..., Path]


def delta(layer: Layer) -> Any:
    """ΔW of a layer as a float64 matrix ``[out, rest]``."""
    up = layer.tensors["up.weight"].torch().double().numpy()
    down = layer.tensors["down.weight"].torch().double().numpy()
    return layer.scale * up @ down.reshape(down.shape[0], -1)


def random_state(spots: list[Any], rank: int, seed: int, **suffixes: str) -> dict[str, Any]:
    """Random float32 torch tensors; ``down`` and ``up`` are the suffixes."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Any] = {}
    for spot in spots:
        ones = tuple(1 for _ in spot.shape[2:])
        state[spot.stem + suffixes["down"]] = torch.randn(rank, *spot.shape[1:], generator=generator)
        state[spot.stem + suffixes["up"]] = torch.randn(spot.shape[0], rank, *ones, generator=generator)
    return state


KOHYA = {"down": ".lora_down.weight", "up": ".lora_up.weight"}


def probe(layer: Layer) -> tuple[Any, Any]:
    """Three random inputs ``[in, 3]`` and what the layer adds for them ``[out, 3]``, without multiplying the pair."""
    up = layer.tensors["up.weight"].torch().double().numpy()
    down = layer.tensors["down.weight"].torch().double().flatten(1).numpy()
    inputs = np.random.default_rng(0).standard_normal((down.shape[1], 3))
    return inputs, layer.scale * up @ (down @ inputs)


def assert_same_as(theirs: dict[str, Any], layers: dict[str, Layer], prefix: str) -> None:
    """diffusers' lora_A and lora_B act as our ΔW does, module by module, and no module is only on one side."""
    modules = {name.removesuffix(".lora_A.weight") for name in theirs if name.endswith(".lora_A.weight")}
    assert modules == {prefix + path for path in layers}
    for path, layer in layers.items():
        a = theirs[f"{prefix}{path}.lora_A.weight"].double().flatten(1).numpy()
        b = theirs[f"{prefix}{path}.lora_B.weight"].double().flatten(1).numpy()
        inputs, ours = probe(layer)
        np.testing.assert_allclose(ours, b @ (a @ inputs), rtol=1e-5, atol=1e-4, err_msg=path)


def test_kohya_flux_equals_diffusers_conversion(tmp_path: Path, make_spots: MakeSpots) -> None:
    import torch
    from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers
    from safetensors.torch import save_file

    base = architectures.load("flux")
    spots = make_spots(base, "transformer", "bfl", "lora_unet_", within=("transformer_blocks.",))
    # Two of 19 and 38 blocks are enough: every kind of module is in each.
    chosen = [spot for spot in spots if "_blocks_1_" in spot.stem or "_blocks_18_" in spot.stem]
    state = random_state(chosen, 2, 0, **KOHYA)
    state |= {f"{spot.stem}.alpha": torch.tensor(index % 3 + 0.5) for index, spot in enumerate(chosen)}
    save_file(state, tmp_path / "lora.safetensors")
    # Two blocks could be of another model that is built alike.
    found = converters.convert_source(tmp_path / "lora.safetensors", base="flux")
    theirs = _convert_kohya_flux_lora_to_diffusers(dict(state))
    assert len(chosen) == 2 * 10 + 2 * 3
    assert_same_as(theirs, found.adapter.components["transformer"].layers, "transformer.")


def test_xlabs_flux_equals_diffusers_conversion(tmp_path: Path, make_spots: MakeSpots) -> None:
    from diffusers.loaders.lora_conversion_utils import _convert_xlabs_flux_lora_to_diffusers
    from safetensors.torch import save_file

    base = architectures.load("flux")
    spots = make_spots(base, "transformer", "xlabs", "", flat=False)
    chosen = [spot for spot in spots if "_blocks.3." in spot.stem]
    state: dict[str, Any] = {}
    for spot in chosen:
        tail = "_lora" if spot.stem.startswith("single") else ""
        pair = random_state([spot], 2, len(state), down=f"{tail}.down.weight", up=f"{tail}.up.weight")
        state |= pair
    save_file(state, tmp_path / "lora.safetensors")
    found = converters.convert_source(tmp_path / "lora.safetensors")
    theirs = _convert_xlabs_flux_lora_to_diffusers(dict(state))
    assert_same_as(theirs, found.adapter.components["transformer"].layers, "transformer.")


def test_sdxl_under_sgm_names_reaches_the_modules_that_diffusers_loads(tmp_path: Path, make_spots: MakeSpots) -> None:
    from types import SimpleNamespace

    from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
    from diffusers.utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft
    from safetensors.torch import save_file

    base = architectures.load("sdxl")
    within = (".attentions.", ".resnets.", "samplers.")
    state = random_state(make_spots(base, "unet", "sgm", "lora_unet_", within=within), 1, 0, **KOHYA)
    for component, prefix in (("text_encoder", "lora_te1_"), ("text_encoder_2", "lora_te2_")):
        spots = make_spots(base, component, "diffusers", prefix, within=(".encoder.layers.",))
        state |= random_state(spots, 1, 1, **KOHYA)
    save_file(state, tmp_path / "lora.safetensors")
    found = converters.convert_source(tmp_path / "lora.safetensors")
    config = SimpleNamespace(layers_per_block=2)
    theirs, _ = StableDiffusionXLLoraLoaderMixin.lora_state_dict(dict(state), unet_config=config)
    unet = {name.removeprefix("unet."): value for name, value in theirs.items() if name.startswith("unet.")}
    assert_same_as(convert_unet_state_dict_to_peft(unet), found.adapter.components["unet"].layers, "")
    for component in ("text_encoder", "text_encoder_2"):
        text = {name: value for name, value in theirs.items() if name.startswith(f"{component}.")}
        layers = found.adapter.components[component].layers
        assert_same_as(convert_state_dict_to_peft(text), layers, f"{component}.")


def test_old_attention_processors_reach_the_modules_that_diffusers_loads(
    tmp_path: Path, make_spots: MakeSpots, sd15: Architecture
) -> None:
    from diffusers.utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft
    from safetensors.torch import save_file

    spots = make_spots(sd15, "unet", "attention-processor", "unet.", flat=False)
    spots += make_spots(sd15, "text_encoder", "clip-processor", "text_encoder.", flat=False)
    state = random_state(spots, 1, 0, down="_lora.down.weight", up="_lora.up.weight")
    save_file(state, tmp_path / "pytorch_lora_weights.safetensors")
    components = converters.convert_source(tmp_path).adapter.components
    unet = {name.removeprefix("unet."): value for name, value in state.items() if name.startswith("unet.")}
    assert_same_as(convert_unet_state_dict_to_peft(unet), components["unet"].layers, "")
    text = {name: value for name, value in state.items() if name.startswith("text_encoder.")}
    assert_same_as(convert_state_dict_to_peft(text), components["text_encoder"].layers, "text_encoder.")
    assert (len(components["unet"].layers), len(components["text_encoder"].layers)) == (128, 48)


TARGETS = ["to_q", "to_v", "proj_in", "conv1", "ff.net.0.proj", "time_emb_proj"]


def tiny_unet() -> Any:
    import torch
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, cross_attention_dim=24,
        attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).double()  # fmt: skip


@pytest.mark.parametrize("rslora", [False, True], ids=["alpha over r", "alpha over root r"])
def test_a_peft_folder_is_worth_what_peft_merges(rslora: bool, tmp_path: Path, tiny_sd: Architecture) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=3, lora_alpha=5, use_rslora=rslora, target_modules=TARGETS, init_lora_weights=False,
        rank_pattern={"mid_block.*to_q": 2, "conv1": 4}, alpha_pattern={r"up_blocks\.\d+.*to_v": 7, "conv1": 1.5},
    )  # fmt: skip
    model = get_peft_model(tiny_unet(), config)
    model.save_pretrained(tmp_path)
    found = converters.convert_source(tmp_path, base=tiny_sd)
    before = {name: value.clone() for name, value in tiny_unet().state_dict().items()}
    after = model.merge_and_unload().state_dict()
    changed = {name.removesuffix(".weight") for name in after if not torch.equal(before[name], after[name])}
    layers = found.adapter.components["unet"].layers
    assert changed == set(layers)
    assert {layer.rank for layer in layers.values()} == {2, 3, 4}
    for path, layer in layers.items():
        difference = (after[f"{path}.weight"] - before[f"{path}.weight"]).flatten(1).numpy()
        np.testing.assert_allclose(delta(layer), difference, rtol=1e-9, atol=1e-12, err_msg=path)


@pytest.mark.parametrize("alpha", [3, 4.5])
def test_a_peft_bias_is_worth_what_peft_merges(alpha: float, tmp_path: Path, tiny_sd: Architecture) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=3, lora_alpha=alpha, target_modules=["ff.net.0.proj", "conv1"], lora_bias=True, init_lora_weights=False
    )
    model = get_peft_model(tiny_unet(), config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name and name.endswith(".bias"):
                value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(1)).float())
    with pytest.warns(match="invalid shape.*lora_B.bias"):
        model.save_pretrained(tmp_path)
    found = converters.convert_source(tmp_path, base=tiny_sd)
    before = {name: value.clone() for name, value in tiny_unet().state_dict().items()}
    after = model.merge_and_unload().state_dict()
    for path, layer in found.adapter.components["unet"].layers.items():
        bias = layer.tensors["bias_delta"].torch().double().numpy()
        difference = (after[f"{path}.bias"] - before[f"{path}.bias"]).numpy()
        np.testing.assert_allclose(bias, difference, rtol=1e-6, atol=1e-7, err_msg=path)
        assert layer.tensors["bias_delta"].dtype == ("F64" if alpha == 3 else "F32")


def test_diffusers_metadata_give_each_component_its_own_alpha(tmp_path: Path, tiny_sdxl: Architecture) -> None:
    import torch
    from safetensors.torch import save_file

    stems = ("unet.mid_block.attentions.0.transformer_blocks.1.attn1.to_q",
             "text_encoder.text_model.encoder.layers.1.mlp.fc1")  # fmt: skip
    config = {
        "unet.r": 2, "unet.lora_alpha": 6, "unet.alpha_pattern": {}, "text_encoder.r": 4,
        "text_encoder.lora_alpha": 1, "text_encoder.rank_pattern": {"text_model.encoder.layers.1.mlp.fc1": 2},
    }  # fmt: skip
    state = {
        f"{stems[0]}.lora_A.weight": torch.ones(2, 32), f"{stems[0]}.lora_B.weight": torch.ones(32, 2),
        f"{stems[1]}.lora_A.weight": torch.ones(2, 24), f"{stems[1]}.lora_B.weight": torch.ones(48, 2),
    }  # fmt: skip
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(config)}
    save_file(state, tmp_path / "lora.safetensors", metadata)
    found = converters.convert_source(tmp_path / "lora.safetensors", base=tiny_sdxl).adapter.components
    assert [layer.alpha for layer in found["unet"].layers.values()] == [6]
    assert [layer.alpha for layer in found["text_encoder"].layers.values()] == [1]


@pytest.mark.parametrize("algo", ["lora", "full"])
def test_lycoris_files_are_worth_what_lycoris_merges(algo: str, tmp_path: Path, tiny_sd: Architecture) -> None:
    import torch
    from lycoris import LycorisNetwork, create_lycoris
    from safetensors.torch import save_file

    unet = tiny_unet().float()
    LycorisNetwork.apply_preset({"enable_conv": True, "target_module": ["Linear", "Conv2d"], "target_name": [".*"]})
    network = create_lycoris(unet, 1.0, linear_dim=3, linear_alpha=2, conv_dim=2, conv_alpha=1, algo=algo)
    network.apply_to()
    with torch.no_grad():
        for value in network.parameters():
            value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(3)) * 0.1)
    before = {name: value.clone() for name, value in tiny_unet().float().state_dict().items()}
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, tmp_path / "l.safetensors")
    found = converters.convert_source(tmp_path / "l.safetensors", base=tiny_sd)
    network.restore()
    network.merge_to(1.0)
    after = unet.state_dict()
    layers = found.adapter.components["unet"].layers
    assert len(layers) == len(network.loras)
    for path, layer in layers.items():
        difference = (after[f"{path}.weight"] - before[f"{path}.weight"]).flatten(1).double().numpy()
        ours = layer.tensors["weight_delta"].numpy() if algo == "full" else delta(layer)
        np.testing.assert_allclose(ours.reshape(difference.shape), difference, atol=2e-6, err_msg=path)


def test_a_folder_that_diffusers_saved_is_worth_what_diffusers_fuses(tmp_path: Path, tiny_sd: Architecture) -> None:
    from peft import LoraConfig

    model = tiny_unet()
    config = LoraConfig(
        r=2, lora_alpha=5, target_modules=["to_k", "to_out.0"], init_lora_weights=False, alpha_pattern={"to_out.0": 3}
    )
    model.add_adapter(config)
    model.save_lora_adapter(tmp_path)
    found = converters.convert_source(tmp_path, base=tiny_sd)
    model.fuse_lora()
    model.unload_lora()
    before, after = tiny_unet().state_dict(), model.state_dict()
    layers = found.adapter.components["unet"].layers
    assert {layer.alpha for layer in layers.values()} == {3.0, 5.0}
    assert len(layers) == sum(path.endswith(("to_k", "to_out.0")) for path in tiny_sd.components["unet"].modules)
    for path, layer in layers.items():
        difference = (after[f"{path}.weight"] - before[f"{path}.weight"]).numpy()
        np.testing.assert_allclose(delta(layer), difference, rtol=1e-9, atol=1e-12, err_msg=path)
