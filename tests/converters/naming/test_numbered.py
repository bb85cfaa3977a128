"""Numbered layers are in the order in which the trainer's own walk finds them in a model of the classes themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from si_hub import converters
from si_hub.architectures import Architecture
from si_hub.converters.naming.numbered import read_numbered
from si_hub.errors import NotAnAdapter, SiHubError, UnsupportedFamily
from si_hub.storage.tensors import Tensor
from tests.sparse import Entry

WriteZeros = Callable[..., Path]
UNET = ["Attention", "GEGLU"]


def walk(model: nn.Module, classes: list[str]) -> Iterator[tuple[str, nn.Linear]]:
    """As `_find_modules` of lora_diffusion: linear layers below modules of some classes."""
    for ancestor, module in model.named_modules():
        if type(module).__name__ in classes:
            for name, child in module.named_modules():
                if type(child) is nn.Linear:
                    yield f"{ancestor}.{name}", child


def small_unet() -> nn.Module:
    with torch.device("meta"):
        made: nn.Module = UNet2DConditionModel(
            block_out_channels=(32, 64, 64, 64), cross_attention_dim=24, attention_head_dim=8
        )
    return made


def small_text_encoder() -> nn.Module:
    config = CLIPTextConfig(
        hidden_size=24, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, vocab_size=9
    )
    with torch.device("meta"):
        made: nn.Module = CLIPTextModel(config)
    return made


def number(component: str, layers: list[tuple[str, nn.Linear]], rank: int = 2) -> dict[str, Tensor]:
    held: dict[str, Tensor] = {}
    for at, (_, layer) in enumerate(layers):
        held[f"{component}:{at}:up"] = Tensor.from_torch(torch.zeros(layer.out_features, rank))
        held[f"{component}:{at}:down"] = Tensor.from_torch(torch.zeros(rank, layer.in_features))
    return held


@pytest.mark.parametrize("classes", [UNET, ["Attention"], ["GEGLU"]])
def test_layers_of_a_unet_are_in_the_order_in_which_the_model_has_them(classes: list[str]) -> None:
    layers = list(walk(small_unet(), classes))
    # The trainer's time knew the class under its older name.
    told = json.dumps(["CrossAttention" if name == "Attention" else name for name in classes])
    keys = read_numbered(number("unet", layers), {"unet": told}, Path("f"))
    assert [keys[f"unet:{at}:up"].stem for at in range(len(layers))] == [f"unet.{name}" for name, _ in layers]
    assert {key.slot for key in keys.values()} == {"up", "down"}


def test_older_models_have_the_feed_forward_before_the_cross_attention() -> None:
    layers = list(walk(small_unet(), UNET))
    older: list[tuple[str, nn.Linear]] = []
    for at in range(0, len(layers), 9):
        block = layers[at : at + 9]
        older += [*block[:4], block[8], *block[4:8]]
    keys = read_numbered(number("unet", older), {"unet": json.dumps(UNET)}, Path("f"))
    assert [keys[f"unet:{at}:down"].stem for at in range(len(older))] == [f"unet.{name}" for name, _ in older]


@pytest.mark.parametrize("classes", [["CLIPAttention"], ["CLIPMLP"]])
def test_layers_of_a_text_encoder_are_in_the_order_in_which_the_model_has_them(classes: list[str]) -> None:
    layers = list(walk(small_text_encoder(), classes))
    keys = read_numbered(number("text_encoder", layers), {"text_encoder": json.dumps(classes)}, Path("f"))
    found = [keys[f"text_encoder:{at}:up"].stem.rpartition("layers.")[2] for at in range(len(layers))]
    assert found == [name.rpartition("layers.")[2] for name, _ in layers]


def entries(architecture: Architecture, *, older: bool) -> dict[str, Entry]:
    """A whole file of this trainer for Stable Diffusion 1.5, with a textual inversion."""
    held: dict[str, Entry] = {"<s1>": ("F16", (768,))}
    blocks = list(dict.fromkeys(
        name.partition(".transformer_blocks")[0] for name, _ in walk(small_unet(), UNET)
    ))  # fmt: skip
    attentions = [[f"attn{at}.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")] for at in (1, 2)]
    gate = ["ff.net.0.proj"]
    inner = [*attentions[0], *gate, *attentions[1]] if older else [*attentions[0], *attentions[1], *gate]
    names = {
        "unet": [f"{block}.transformer_blocks.0.{name}" for block in blocks for name in inner],
        "text_encoder": [f"text_model.encoder.layers.{layer}.self_attn.{name}_proj"
                         for layer in range(12) for name in ("k", "v", "q", "out")],
    }  # fmt: skip
    for component, paths in names.items():
        for at, path in enumerate(paths):
            out, width = architecture.components[component].modules[path].shape
            held |= {f"{component}:{at}:up": ("F16", (out, 4)), f"{component}:{at}:down": ("F16", (4, width))}
    return held


TOLD = {"unet": json.dumps(["CrossAttention", "GEGLU"]), "text_encoder": '["CLIPAttention"]'}


@pytest.mark.parametrize("older", [True, False])
def test_a_file_is_converted_whole_and_its_token_rides_along(
    older: bool, tmp_path: Path, write_zeros: WriteZeros, sd15: Architecture
) -> None:
    held = entries(sd15, older=older)
    metadata = TOLD | {f"unet:{at}:rank": "4" for at in range(144)}
    file = write_zeros(tmp_path / "f.safetensors", held, metadata)
    found = converters.convert_source(file)
    assert found.base.name == "sd15"
    components = found.adapter.components
    assert {name: len(component.layers) for name, component in components.items()} == {"unet": 144, "text_encoder": 48}
    assert list(components["text_encoder"].embeddings) == ["<s1>"]
    assert set(found.report.uses) == set(held)
    assert not found.report.dropped
    assert all(layer.scale == 1 for component in components.values() for layer in component.layers.values())


@pytest.mark.parametrize(
    ("metadata", "gone", "error", "match"),
    [
        ({}, "", NotAnAdapter, "cloneofsimo's numbered layout.*Its layers have numbers, not names"),
        (TOLD | {"unet": '["ResnetBlock2D", "GEGLU"]'}, "", UnsupportedFamily,
         "classes whose order is not known.*found ResnetBlock2D"),
        (TOLD | {"unet": "{}"}, "", UnsupportedFamily, "without saying of which classes"),
        (TOLD | {"unet": '["GEGLU"]'}, "", UnsupportedFamily, "expected 16 pairs, found 288 tensors"),
        (TOLD, "unet:7:up", UnsupportedFamily, "expected 144 pairs, found 287 tensors"),
        (TOLD | {"unet": "["}, "", SiHubError, "the list of classes"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_with_the_reason(
    metadata: dict[str, str], gone: str, error: type[SiHubError], match: str, tmp_path: Path, write_zeros: WriteZeros,
    sd15: Architecture,
) -> None:  # fmt: skip
    held = {name: entry for name, entry in entries(sd15, older=True).items() if name != gone}
    with pytest.raises(error, match=match):
        converters.convert_source(write_zeros(tmp_path / "f.safetensors", held, metadata))
