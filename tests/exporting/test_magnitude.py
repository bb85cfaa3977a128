"""DoRA there and back: the merged weight by its definition, in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from si_hub.architectures.layouts import Part
from si_hub.converters.dense import BaseModule
from si_hub.errors import ConversionRefused
from si_hub.exporting.magnitude import is_magnitude, raise_magnitude
from tests.converters.tiny import MODULES, as_parameters, convert, stem_of, weights

LINEAR, SQUARE, POINT, CONV, *_ = MODULES


@pytest.mark.parametrize("path", [LINEAR, SQUARE, POINT, CONV])
@pytest.mark.parametrize("axis", [0, 1])
def test_pair_and_magnitude_are_those_of_the_source(path: str, axis: int, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(axis)
    out, into, *kernel = MODULES[path].shape
    down = torch.randn(3, into, *kernel, generator=generator)
    up = torch.randn(out, 3, *(1 for _ in kernel), generator=generator)
    ones = [1 for _ in kernel]
    shape = (out, 1, *ones) if axis == 0 else (1, into, *ones)
    magnitude = torch.rand(shape, generator=generator) + 0.5
    stem, held = stem_of(path), weights()
    state = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.dora_scale": magnitude,
             f"{stem}.alpha": torch.tensor(1.5)}  # fmt: skip
    layer = convert(tmp_path / "dora.safetensors", state, held).adapter.components["unet"].layers[path]
    assert is_magnitude(layer)
    own = BaseModule(as_parameters(held), "unet", (Part(path),), MODULES, tmp_path, path)
    pair, found = raise_magnitude(path, layer, own, MODULES[path].bias)
    np.testing.assert_allclose(found.numpy(), magnitude.numpy(), rtol=1e-5)
    np.testing.assert_allclose(pair.tensors["down.weight"].numpy(), down.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pair.tensors["up.weight"].numpy(), up.flatten(1).numpy(), rtol=1e-5, atol=1e-6)
    assert set(pair.tensors) == {"down.weight", "up.weight"}
    assert pair.alpha == 1.5


def test_a_trained_bias_stays_beside_it(tmp_path: Path) -> None:
    stem, held = stem_of(LINEAR), weights()
    state = {f"{stem}.lora_down.weight": torch.ones(1, 16), f"{stem}.lora_up.weight": torch.ones(32, 1),
             f"{stem}.dora_scale": torch.full((32, 1), 2.0), f"{stem}.diff_b": torch.full((32,), 0.25)}  # fmt: skip
    layer = convert(tmp_path / "dora.safetensors", state, held).adapter.components["unet"].layers[LINEAR]
    own = BaseModule(as_parameters(held), "unet", (Part(LINEAR),), MODULES, tmp_path, LINEAR)
    pair, _ = raise_magnitude(LINEAR, layer, own, True)
    np.testing.assert_allclose(pair.tensors["bias_delta"].numpy(), 0.25, rtol=1e-4)


def test_a_gain_of_nothing_is_refused(tmp_path: Path) -> None:
    stem, held = stem_of(SQUARE), weights()
    state = {f"{stem}.lora_down.weight": torch.ones(1, 16), f"{stem}.lora_up.weight": torch.ones(16, 1),
             f"{stem}.dora_scale": torch.zeros(16, 1)}  # fmt: skip
    layer = convert(tmp_path / "dora.safetensors", state, held).adapter.components["unet"].layers[SQUARE]
    own = BaseModule(as_parameters(held), "unet", (Part(SQUARE),), MODULES, tmp_path, SQUARE)
    with pytest.raises(ConversionRefused, match="a gain of 0 has no magnitude"):
        raise_magnitude(SQUARE, layer, own, False)
