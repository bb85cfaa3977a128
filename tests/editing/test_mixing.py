"""A mix as one adapter: what it does to weights, layer by layer, against the sum by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import si_hub
from si_hub import format
from si_hub.adapter import Adapter, Layer
from si_hub.editing.mixing import MixPart, write_mix
from si_hub.errors import ConversionRefused, UsageError
from tests.miniature import BASE, KOHYA_LORA, join_styles


def delta(layer: Layer, shares: tuple[float, ...] = (1.0,)) -> torch.Tensor:
    """What a layer adds to its weight, branches mixed, in float64."""
    down = layer.tensors["down.weight"].torch().double().flatten(1)
    mixed = sum(share * part for share, part in zip(shares, down.chunk(len(shares)), strict=True))
    return layer.scale * (layer.tensors["up.weight"].torch().double().flatten(1) @ torch.as_tensor(mixed))


@pytest.fixture
def two(tmp_path: Path) -> Adapter:
    return format.read(join_styles(tmp_path))


@pytest.fixture
def one(tmp_path: Path) -> Adapter:
    return format.read(si_hub.convert(KOHYA_LORA, tmp_path / "one.safetensors", base=BASE).path)


def test_a_mix_is_the_weighted_sum_of_mixed_branches(two: Adapter, one: Adapter, tmp_path: Path) -> None:
    parts = [
        MixPart("two", two, 0.8, {"kohya_lora": 0.25, "peft_lora": 1.5}),
        MixPart("one", one, -0.5),
        MixPart("no", one, 0.0),
    ]
    mixed = format.read(write_mix(parts, tmp_path / "mix.safetensors", BASE).path)
    assert mixed.branches == ()
    compared = 0
    for name, component in mixed.components.items():
        for path, layer in component.layers.items():
            expected = 0.8 * delta(two.components[name].layers[path], (0.25, 1.5))
            if other := one.components[name].layers.get(path):
                expected = expected - 0.5 * delta(other)
            np.testing.assert_allclose(delta(layer), expected, rtol=1e-5, atol=1e-7)
            compared += 1
    assert compared == 82


def test_one_adapter_alone_as_it_is_keeps_its_bytes(two: Adapter, tmp_path: Path) -> None:
    written = write_mix([MixPart("two", two)], tmp_path / "mix.safetensors", BASE)
    assert written.path.read_bytes() == (tmp_path / "styles.safetensors").read_bytes()


def test_what_cannot_be_one_file_is_refused_and_nothing_written(two: Adapter, tmp_path: Path) -> None:
    for component in two.components.values():
        for layer in component.layers.values():
            layer.transform = "variance"
    with pytest.raises(ConversionRefused, match="its injection depends on the features"):
        write_mix([MixPart("two", two, 0.5)], tmp_path / "mix.safetensors", BASE)
    with pytest.raises(UsageError, match="the adapter has no such style"):
        write_mix([MixPart("two", two, 0.5, {"clay": 1.0})], tmp_path / "mix.safetensors", BASE)
    with pytest.raises(UsageError, match="every adapter has weight 0"):
        write_mix([], tmp_path / "mix.safetensors", BASE)
    assert not (tmp_path / "mix.safetensors").exists()
