"""Other projects' names, against diffusers' own conversion of their checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from si_hub import architectures
from si_hub.architectures import Model, from_folder
from si_hub.architectures.layouts import Names, Part, attention_processor, bare_clip, bfl, sgm, xlabs
from si_hub.architectures.model import Module
from si_hub.architectures.namings import LAYOUTS


def source_rows(model: Model, parts: tuple[Part, ...]) -> int:
    """Output rows of the source module that holds ``parts``."""
    return sum(model.modules[part.path].shape[0] for part in parts)


def ldm_checkpoint(names: Names, start: int = 1) -> dict[str, Any]:
    """One distinct number a parameter under every source name."""
    import torch

    leaves = [f"{name}.{leaf}" for name in names for leaf in ("weight", "bias")]
    return {name: torch.tensor([float(number)]) for number, name in enumerate(leaves, start)}


def assert_diffusers_agrees(model: Model, config: dict[str, Any]) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    names = sgm(model)
    assert {part.path for parts in names.values() for part in parts} == set(model.modules)
    checkpoint = ldm_checkpoint(names)
    theirs = convert_ldm_unet_checkpoint({f"model.diffusion_model.{key}": v for key, v in checkpoint.items()}, config)
    ours = {f"{parts[0].path}.{leaf}": checkpoint[f"{name}.{leaf}"] for name, parts in names.items()
            for leaf in ("weight", "bias")}  # fmt: skip
    assert {name: float(value) for name, value in theirs.items()} == {name: float(v) for name, v in ours.items()}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("sd15", {"layers_per_block": 2}),
        ("sd21", {"layers_per_block": 2}),
        ("sdxl", {"layers_per_block": 2, "addition_embed_type": "text_time"}),
        ("sdxl-refiner", {"layers_per_block": 2, "addition_embed_type": "text_time"}),
        ("ssd-1b", {"layers_per_block": 2, "addition_embed_type": "text_time"}),
        ("segmind-vega", {"layers_per_block": 2, "addition_embed_type": "text_time"}),
    ],
)
def test_sgm_names_are_those_that_diffusers_converts(name: str, config: dict[str, Any]) -> None:
    assert_diffusers_agrees(architectures.load(name).components["unet"], {"class_embed_type": None, **config})


def test_sgm_names_of_a_tiny_unet_are_those_that_diffusers_converts(tiny_folder: Path) -> None:
    config = json.loads((tiny_folder / "unet" / "config.json").read_text(encoding="utf-8"))
    assert_diffusers_agrees(from_folder(tiny_folder).components["unet"], config)


def test_xlabs_single_blocks_hold_the_first_rows_of_linear1() -> None:
    model = architectures.load("flux").components["transformer"]
    whole, trained = bfl(model)["single_blocks.7.linear1"], xlabs(model)["single_blocks.7.processor.qkv"]
    assert trained == whole[:3]
    assert source_rows(model, trained) == 3 * 3072


def test_old_attention_processors_and_bare_clip_names_reach_their_modules() -> None:
    unet = architectures.load("sd15").components["unet"]
    stem = "mid_block.attentions.0.transformer_blocks.0.attn2"
    names = attention_processor(unet)
    assert names[f"{stem}.processor.to_out"] == (Part(f"{stem}.to_out.0"),)
    assert names[f"{stem}.processor.to_k"] == (Part(f"{stem}.to_k"),)
    assert len(names) == 128
    clip = architectures.load("sd15").components["text_encoder"]
    assert bare_clip(clip)["encoder.layers.0.mlp.fc1"] == (Part("text_model.encoder.layers.0.mlp.fc1"),)


@pytest.mark.parametrize("name", architectures.names())
def test_no_two_layouts_of_a_model_give_one_name_two_meanings(name: str) -> None:
    for model in architectures.load(name).components.values():
        meanings: dict[str, tuple[Part, ...]] = {}
        for layout in LAYOUTS.values():
            flattened = {source.replace(".", "_"): parts for source, parts in layout(model).items()}
            assert len(flattened) == len(layout(model))
            for source, parts in flattened.items():
                assert meanings.setdefault(source, parts) == parts, source


def test_strange_module_lists_have_layouts_too() -> None:
    odd = Model("FluxTransformer2DModel", {
        "down_blocks.99999.attentions.3.norm": Module("norm", (4,)), "conv_in": Module("conv", (4, 4, 3, 3)),
        "up_blocks.0.attentions.0.proj_in": Module("linear", (4, 4)), "": Module("linear", (4, 1)),
        "transformer_blocks.0.norm1.linear": Module("linear", (6, 1)), "norm_out.linear": Module("norm", ()),
        "transformer_blocks.0.attn.to_q": Module("linear", (4, 4)),
        "transformer_blocks.0.attn.to_k": Module("norm", ()),
        "transformer_blocks.0.attn.to_v": Module("linear", (4, 8)),
    })  # fmt: skip
    for layout in LAYOUTS.values():
        assert {part.path for parts in layout(odd).values() for part in parts} <= set(odd.modules)
    assert not any("qkv" in name for name in bfl(odd))
