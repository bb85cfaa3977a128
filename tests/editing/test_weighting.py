"""Weights by path: the longest one that covers a layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.editing.weighting import LayerWeights, check_weights, read_weights
from si_hub.errors import UsageError

FILE = Path("ink.safetensors")


@pytest.mark.parametrize(
    ("component", "path", "weight"),
    [
        ("unet", "down_blocks.1.attentions.0.proj_in", 0.3), ("unet", "down_blocks.10.attentions.0.proj_in", 0.5),
        ("unet", "down_blocks.0.resnets.0.conv1", 0.5), ("unet", "mid_block.resnets.0.conv1", -1.0),
        ("unet", "conv_in", 1.0), ("text_encoder", "text_model.encoder.layers.0.mlp.fc1", 0.0),
        ("text_encoder_2", "text_model.encoder.layers.0.mlp.fc1", 1.0),
    ],
)  # fmt: skip
def test_the_longest_path_counts_and_what_none_covers_is_one(component: str, path: str, weight: float) -> None:
    table = {"unet": {"down": 0.5, "down.block_1": 0.3, "mid": -1}, "text_encoder": 0}
    assert read_weights(table, FILE).of(component, path) == weight


def test_a_number_is_for_all_and_none_is_one() -> None:
    assert read_weights(0.7, FILE) == LayerWeights(0.7)
    assert read_weights(None, FILE).of("unet", "conv_in") == 1.0


@pytest.mark.parametrize("given", ["0.7", float("nan"), True, [0.5], {"unet": [0.5]}, {"unet": {"down": "x"}}])
def test_what_is_no_weight_is_told(given: Any) -> None:
    with pytest.raises(UsageError, match="a weight is"):
        read_weights(given, FILE)


def test_a_path_of_nothing_is_told_with_the_nearest() -> None:
    adapter = Adapter(BaseModel("sd15"), {"unet": Component(None, {"mid_block.resnets.0.conv1": Layer({})})})
    check_weights(read_weights({"unet.mid": 0.5}, FILE), adapter, FILE)
    with pytest.raises(
        UsageError, match=r"unet\.mid_blck: covers no layer of the adapter.*Did you mean unet\.mid_block\?"
    ):
        check_weights(read_weights({"unet.mid_blck": 0.5}, FILE), adapter, FILE)
