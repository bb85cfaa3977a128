"""Weights as users write them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from si_hub.errors import UsageError
from si_hub.pipelines.weights import per_module, share_out

Make = Callable[..., Any]
OWNERS = {"ink": ["unet", "text_encoder"], "neon": ["unet"]}
COMPONENTS = ["vae", "unet", "text_encoder"]


def test_one_number_goes_to_every_adapter_and_component() -> None:
    assert share_out(["ink", "neon"], 0.5, OWNERS, COMPONENTS) == {
        "vae": {},
        "unet": {"ink": 0.5, "neon": 0.5},
        "text_encoder": {"ink": 0.5},
    }


def test_a_list_goes_by_name_and_a_table_by_component() -> None:
    shared = share_out(["neon", "ink"], [0.1, {"text_encoder": 0.2}], OWNERS, COMPONENTS)
    assert shared == {"vae": {}, "unet": {"neon": 0.1, "ink": None}, "text_encoder": {"ink": 0.2}}


def test_one_table_for_several_adapters_may_name_what_only_one_of_them_adapts() -> None:
    shared = share_out(["neon", "ink"], {"text_encoder": 0.2}, OWNERS, COMPONENTS)
    assert shared == {"vae": {}, "unet": {"neon": None, "ink": None}, "text_encoder": {"ink": 0.2}}


@pytest.mark.parametrize(
    ("names", "weights", "words"),
    [
        (["oil"], 1.0, "oil: no such adapter is loaded.*one of ink, neon"),
        (["ink", "ink"], 1.0, "named twice"),
        (["ink"], [1.0, 2.0], "expected 1 weights, found 2"),
        (["ink"], {"down": 1.0}, r'down: the pipeline has no such component.*\{"unet": \{"down": 0.5\}\}'),
        (["ink"], {"transformer": 1.0}, "transformer: the pipeline has no such component"),
        (["neon"], {"text_encoder": 1.0}, "text_encoder: adapter 'neon' does not adapt it.*one of unet"),
        (["ink", "neon"], [1.0, {"text_encoder": 1.0}], "text_encoder: adapter 'neon' does not adapt it"),
    ],
)
def test_what_does_not_exist_is_an_error(names: list[str], weights: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        share_out(names, weights, OWNERS, COMPONENTS)


class Blocks(nn.Module):
    """Twelve numbered blocks of two linear layers each."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.Linear(1, 1)}) for _ in range(12))
        self.head = nn.Linear(1, 1)


def weight_at(model: nn.Module, weight: Any, path: str) -> float:
    found = per_module(model, weight)
    return found(path) if callable(found) else found


def test_a_path_matches_whole_segments_so_that_block_1_never_reaches_block_10() -> None:
    model = Blocks()
    assert weight_at(model, {"blocks.1": 0.5}, "blocks.1.a") == 0.5
    assert weight_at(model, {"blocks.1": 0.5}, "blocks.10.a") == 1.0
    assert weight_at(model, {"blocks.1": 0.5}, "blocks.11.b") == 1.0


def test_the_longest_path_wins_whatever_the_order() -> None:
    model = Blocks()
    pairs = [("blocks", 0.5), ("blocks.3", 0.25), ("blocks.3.b", 0.0)]
    for table in (dict(pairs), dict(reversed(pairs))):
        paths = ("blocks.2.a", "blocks.3.a", "blocks.3.b", "head")
        assert [weight_at(model, table, path) for path in paths] == [0.5, 0.25, 0.0, 1.0]


def test_tables_nest_and_a_list_numbers_the_entries_of_a_module_list() -> None:
    model = Blocks()
    assert weight_at(model, {"blocks": {"3": {"b": 0.1}}}, "blocks.3.b") == 0.1
    numbers = [index / 10 for index in range(12)]
    assert [weight_at(model, {"blocks": numbers}, f"blocks.{index}.a") for index in range(12)] == numbers


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        ({"block": 1.0}, r"block: no such block or module \(expected blocks, blocks\.0 to blocks\.11\).*mean blocks\?"),
        ({"blocks": {"12": 1.0}}, r"model\.blocks\.12: no such block or module \(expected 0 to 11\)"),
        ({"bloc": {"1": 1.0}}, "no such block.*Did you mean blocks"),
        ({"blocks": {"3": {"c": 1.0}}}, r"blocks\.3\.c: no such block or module \(expected a number for all of it\)"),
        ({"blocks": [1.0, 2.0]}, r"model\.blocks: the list has another length.*expected 1 or 12, found 2"),
        ({"head": [1.0, 2.0]}, "no layers that a list could number"),
        ({"head": "strong"}, "a weight is a number, a list or a table.*strong"),
        ({"head": float("nan")}, "finite number"),
        ({"head": True}, "finite number"),
        (float("inf"), "finite number"),
        ([1.0], "a number or a table"),
    ],
)
def test_what_the_model_does_not_have_is_an_error_that_says_where(weight: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        per_module(Blocks(), weight)


PATHS = st.sampled_from([path for path, _ in Blocks().named_modules() if path])


@given(table=st.dictionaries(PATHS, st.floats(-2, 2), min_size=1), path=PATHS)
def test_a_module_s_weight_is_that_of_its_nearest_named_ancestor(table: dict[str, float], path: str) -> None:
    ancestors = [key for key in table if f"{path}.".startswith(f"{key}.")]
    expected = table[max(ancestors, key=len)] if ancestors else 1.0
    assert weight_at(Blocks(), table, path) == expected


def test_a_unet_s_blocks_cover_attentions_resnets_and_samplers(sd: Make) -> None:
    unet = sd().unet
    table = {"down": 0.5, "mid": 0.6, "up": {"block_0": [0.1, 0.2, 0.3], "block_1": 0.9}}
    expected = {
        "down_blocks.0.resnets.1.conv1": 0.5,
        "down_blocks.0.downsamplers.0.conv": 0.5,
        "down_blocks.1.attentions.0.proj_in": 0.5,
        "mid_block.resnets.1.conv2": 0.6,
        "mid_block.attentions.0.proj_in": 0.6,
        "up_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q": 0.2,
        "up_blocks.0.resnets.2.conv1": 0.3,
        "up_blocks.0.upsamplers.0.conv": 0.3,
        "up_blocks.1.resnets.0.conv1": 0.9,
        "conv_in": 1.0,
        "time_embedding.linear_1": 1.0,
    }
    assert expected.keys() <= dict(unet.named_modules()).keys()
    assert {path: weight_at(unet, table, path) for path in expected} == expected


def test_a_list_for_all_down_blocks_numbers_the_layers_of_each(sd: Make) -> None:
    unet = sd().unet
    assert weight_at(unet, {"down": [0.1, 0.2]}, "down_blocks.1.attentions.1.proj_in") == 0.2
    assert weight_at(unet, {"down": [0.1, 0.2]}, "down_blocks.0.resnets.0.conv1") == 0.1
    with pytest.raises(UsageError, match="expected 1 or 2, found 3"):
        per_module(unet, {"down": [0.1, 0.2, 0.3]})
    with pytest.raises(UsageError, match="expected 1 or 1, found 2"):
        per_module(unet, {"mid": [0.1, 0.2]})
    with pytest.raises(UsageError, match=r"unet\.down\.block_2: no such block"):
        per_module(unet, {"down": {"block_2": 1.0}}, "unet")


def test_weights_agree_with_diffusers_expansion_of_its_documented_example(sd: Make) -> None:
    from diffusers.loaders.unet_loader_utils import _maybe_expand_lora_scales

    unet = sd().unet
    table = {"down": 0.5, "mid": 0.8, "up": {"block_0": [0.1, 0.2, 0.3]}}
    theirs = _maybe_expand_lora_scales(unet, [copy.deepcopy(table)])[0]
    assert theirs
    for block, weight in theirs.items():
        assert weight_at(unet, table, f"{block}.transformer_blocks.0.attn1.to_q") == weight


def test_text_encoder_paths_are_found_with_and_without_text_model(sd: Make) -> None:
    encoder = sd().text_encoder
    for key in ("encoder.layers.0", "text_model.encoder.layers.0"):
        for path in ("encoder.layers.0.mlp.fc1", "text_model.encoder.layers.0.mlp.fc1"):
            assert weight_at(encoder, {key: 0.5}, path) == 0.5
    assert weight_at(encoder, {"encoder.layers.0": 0.5}, "text_model.encoder.layers.1.mlp.fc1") == 1.0


def test_the_whole_text_model_can_be_named_where_there_is_one(sdxl: Make) -> None:
    encoder = sdxl().text_encoder_2
    assert "text_projection" in dict(encoder.named_children())
    paths = ("text_model.encoder.layers.0.mlp.fc1", "encoder.layers.0.mlp.fc1", "text_projection")
    assert [weight_at(encoder, {"text_model": 0.5}, path) for path in paths] == [0.5, 0.5, 1.0]


#: A table that names no block of a UNet of two levels → what the error lists, and the name that was meant.
MISTYPED: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "a block": ({"dwon": 1.0}, "down, mid, up, down.block_0 to down.block_1, up.block_0 to up.block_1", "down"),
    "diffusers' attribute": ({"down_block": 1.0}, "down, mid, up, down.block_0 to down.block_1", "down"),
    "a numbered block": ({"down": {"blok_1": 1.0}}, "block_0 to block_1", "block_1"),
    "one too many": ({"up": {"block_7": 1.0}}, "block_0 to block_1", "block_"),
    "both in one": ({"down.blok_1": 1.0}, "down, mid, up, down.block_0 to down.block_1", "down.block_1"),
    "a module": ({"time_embeding": 1.0}, "down, mid, up", "time_embedding"),
    "inside of a block": (
        {"down": {"block_1": {"atentions": 1.0}}},
        "attentions, attentions.0 to attentions.1",
        "attentions",
    ),
    "nothing like it": ({"xyz": 1.0}, "down, mid, up", None),
}


@pytest.mark.parametrize("mistake", MISTYPED)
def test_a_block_that_is_not_there_is_answered_by_the_blocks_that_are(
    sd: Make, lora: Make, adapter: Make, mistake: str
) -> None:
    table, listed, meant = MISTYPED[mistake]
    pipe = sd()
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)), adapter_name="x")
    with pytest.raises(UsageError) as raised:
        pipe.set_styleinject_adapters("x", {"unet": table})
    text = str(raised.value)
    assert f"expected {listed}" in text
    assert (meant is not None) == ("Did you mean" in text)
    assert f"Did you mean {meant or ''}" in text or meant is None
    for internal in ("down_blocks", "up_blocks", "styleinject", "conv_in", "conv_out", "time_proj"):
        assert internal not in text


def test_the_blocks_of_a_transformer_are_its_lists_of_blocks() -> None:
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(
        num_layers=2, num_single_layers=3, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=16,
        pooled_projection_dim=8, in_channels=4, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    with pytest.raises(UsageError) as raised:
        per_module(model, {"single_transformer_block.1": 0.5}, "transformer")
    assert str(raised.value) == (
        "transformer.single_transformer_block.1: no such block or module (expected transformer_blocks, "
        "transformer_blocks.0 to transformer_blocks.1, single_transformer_blocks, single_transformer_blocks.0 to "
        "single_transformer_blocks.2). Did you mean single_transformer_blocks.1?"
    )


def test_a_blocks_whole_name_is_the_same_as_tables_in_tables(sd: Make) -> None:
    unet = sd().unet
    path = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    assert weight_at(unet, {"down.block_1": 0.5}, path) == weight_at(unet, {"down": {"block_1": 0.5}}, path) == 0.5
    assert weight_at(unet, {"down": 0.2, "down.block_0": 0.5}, path) == 0.2
    assert weight_at(unet, {"down.block_1.attentions.0": 0.1}, path) == 0.1


def test_an_adapter_and_a_component_are_suggested_too(sd: Make, lora: Make, adapter: Make) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)), adapter_name="watercolour")
    with pytest.raises(UsageError, match="Did you mean watercolour"):
        pipe.set_styleinject_adapters("watercolor", 1.0)
    with pytest.raises(UsageError, match="Did you mean unet"):
        pipe.set_styleinject_adapters("watercolour", {"unte": 1.0})
