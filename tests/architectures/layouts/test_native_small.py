"""Native names of models for video and more, against diffusers' own conversion of small ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from si_hub.architectures import Model
from si_hub.architectures.generate import shapes_on_meta
from si_hub.architectures.layouts import Layout, Names
from si_hub.architectures.layouts.cosmos import predict2
from si_hub.architectures.layouts.ideogram4 import ideogram4
from si_hub.architectures.layouts.ltx import ltx, ltx2
from si_hub.architectures.layouts.mochi import mochi
from si_hub.architectures.layouts.wan import wan
from si_hub.architectures.model import modules_from_shapes

WAN = {"num_attention_heads": 2, "attention_head_dim": 6, "text_dim": 10, "freq_dim": 8, "ffn_dim": 14, "num_layers": 2}
IMAGE = {"image_dim": 9, "added_kv_proj_dim": 12, "in_channels": 20}
COSMOS = {
    "num_attention_heads": 2, "attention_head_dim": 24, "num_layers": 2, "text_embed_dim": 10, "adaln_lora_dim": 6,
    "extra_pos_embed_type": None, "use_crossattn_projection": True, "crossattn_proj_in_channels": 9,
    "encoder_hidden_states_channels": 10,
}  # fmt: skip
LTX = {
    "num_attention_heads": 2, "attention_head_dim": 6, "cross_attention_dim": 12, "caption_channels": 10,
    "num_layers": 2, "in_channels": 4, "out_channels": 4,
}  # fmt: skip
LTX2 = LTX | {
    "audio_in_channels": 3, "audio_out_channels": 3, "audio_num_attention_heads": 2, "audio_attention_head_dim": 4,
    "audio_cross_attention_dim": 8,
}  # fmt: skip
LTX2_3 = LTX2 | {
    "gated_attn": True, "cross_attn_mod": True, "audio_gated_attn": True, "audio_cross_attn_mod": True,
    "use_prompt_embeddings": False, "perturbed_attn": True,
}  # fmt: skip
#: diffusers converts all 48 blocks, whatever the configuration.
MOCHI = {
    "num_attention_heads": 2, "attention_head_dim": 6, "pooled_projection_dim": 8, "text_embed_dim": 10,
    "time_embed_dim": 6, "in_channels": 3, "num_layers": 48,
}  # fmt: skip

Convert = Callable[[dict[str, Any]], dict[str, Any]]


def single_file(name: str) -> Convert:
    """diffusers' conversion of a checkpoint, by what the function is called there."""

    def convert(checkpoint: dict[str, Any]) -> dict[str, Any]:
        from diffusers.loaders import single_file_utils

        converted = getattr(single_file_utils, f"convert_{name}_to_diffusers")(checkpoint)
        assert isinstance(converted, dict)
        return converted

    return convert


def adapter(name: str, before: str, after: str) -> Convert:
    """diffusers' conversion of an adapter's names, which end in anything."""

    def convert(checkpoint: dict[str, Any]) -> dict[str, Any]:
        from diffusers.loaders import lora_conversion_utils

        function = getattr(lora_conversion_utils, f"_convert_non_diffusers_{name}_lora_to_diffusers")
        converted = function({before + key: value for key, value in checkpoint.items()})
        return {key.removeprefix(after): value for key, value in converted.items()}

    return convert


def small(class_name: str, config: Mapping[str, Any]) -> Model:
    """A small model of a class of diffusers."""
    return Model(class_name, modules_from_shapes(shapes_on_meta("diffusers", class_name, config)))


def leaves(model: Model, path: str) -> tuple[str, ...]:
    """What the names of a module's tensors end in."""
    module = model.modules[path]
    return ("",) if module.kind == "parameter" else (".weight", ".bias") if module.bias else (".weight",)


def native_checkpoint(model: Model, names: Names) -> dict[str, Any]:
    """A checkpoint under native names, no number twice."""
    import torch

    found: dict[str, Any] = {}
    start = 0
    for name, parts in names.items():
        held = [model.modules[part.path] for part in parts]
        rows = sum(module.shape[0] for module in held)
        for leaf in leaves(model, parts[0].path):
            shape = (rows,) if leaf == ".bias" else (rows, *held[0].shape[1:])
            value = torch.arange(start, start + torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)
            start += value.numel()
            found[name + leaf] = value
    return found


def convert_by_layout(model: Model, names: Names, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The same conversion by the parts that the layout gives."""
    import torch

    found: dict[str, Any] = {}
    for name, parts in names.items():
        for part in parts:
            for leaf in leaves(model, part.path):
                value = checkpoint[name + leaf]
                rows = [(0, len(value))] if part.rows is None else part.rows
                found[part.path + leaf] = torch.cat([value[start:stop] for start, stop in rows])
    return found


@pytest.mark.parametrize(
    ("layout", "class_name", "config", "convert"),
    [
        pytest.param(wan, "WanTransformer3DModel", WAN, single_file("wan_transformer"), id="wan-t2v"),
        pytest.param(wan, "WanTransformer3DModel", WAN | IMAGE, single_file("wan_transformer"), id="wan-i2v"),
        pytest.param(
            wan, "WanVACETransformer3DModel", WAN | {"vace_layers": [0, 1], "vace_in_channels": 7},
            single_file("wan_transformer"), id="wan-vace",
        ),
        pytest.param(
            predict2, "CosmosTransformer3DModel", COSMOS, single_file("cosmos_transformer_checkpoint"), id="cosmos"
        ),
        pytest.param(ltx, "LTXVideoTransformer3DModel", LTX, single_file("ltx_transformer_checkpoint"), id="ltx"),
        pytest.param(ltx2, "LTX2VideoTransformer3DModel", LTX2, single_file("ltx2_transformer"), id="ltx2"),
        pytest.param(
            ltx2, "LTX2VideoTransformer3DModel", LTX2_3, adapter("ltx2", "diffusion_model.", "transformer."),
            id="ltx2.3",
        ),
        pytest.param(
            ltx2, "LTX2VideoTransformer3DModel", LTX2_3 | {"ff_bias": False},
            adapter("ltx2", "diffusion_model.", "transformer."), id="ltx2.5",
        ),
        pytest.param(mochi, "MochiTransformer3DModel", MOCHI, single_file("mochi_transformer_checkpoint"), id="mochi"),
    ],
)  # fmt: skip
def test_every_native_name_is_what_diffusers_makes_of_it(
    layout: Layout, class_name: str, config: dict[str, Any], convert: Convert
) -> None:
    import torch

    model = small(class_name, config)
    names = layout(model)
    assert {part.path for parts in names.values() for part in parts} == set(model.modules)
    checkpoint = native_checkpoint(model, names)
    ours = convert_by_layout(model, names, checkpoint)
    theirs = convert(dict(checkpoint))
    assert theirs.keys() == ours.keys()
    for name, value in ours.items():
        assert torch.equal(theirs[name], value), name


def test_ideogram_adapters_are_what_diffusers_makes_of_them() -> None:
    import torch

    config = {
        "in_channels": 4, "num_layers": 2, "attention_head_dim": 4, "num_attention_heads": 2, "intermediate_size": 14,
        "adaln_dim": 6, "llm_features_dim": 10, "mrope_section": [1, 1, 0],
    }  # fmt: skip
    model = small("Ideogram4Transformer2DModel", config)
    names = ideogram4(model)
    assert {part.path for parts in names.values() for part in parts} == set(model.modules)
    # diffusers converts adapters only, and those of the blocks only; everything else has one name.
    held = {
        name: parts for name, parts in names.items()
        if name.startswith("layers.") and model.modules[parts[0].path].kind == "linear"
    }  # fmt: skip
    assert {name: parts[0].path for name, parts in names.items() if name not in held} == {
        name: name for name in names if name not in held
    }
    checkpoint = {
        name: value for name, value in native_checkpoint(model, held).items() if not name.endswith(".bias")
    }  # fmt: skip
    adapter_names = {name.replace(".weight", ".lora_B.weight"): value for name, value in checkpoint.items()}
    adapter_names |= {name.replace("lora_B", "lora_A"): torch.ones(1, 1) for name in adapter_names}
    theirs = adapter("ideogram4", "diffusion_model.", "transformer.")(adapter_names)
    for name, parts in held.items():
        value = checkpoint[f"{name}.weight"]
        for part in parts:
            rows = [(0, len(value))] if part.rows is None else part.rows
            expected = torch.cat([value[start:stop] for start, stop in rows])
            assert torch.equal(theirs[f"{part.path}.lora_B.weight"], expected), part.path
