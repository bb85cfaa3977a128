"""Branches mixed to one, by hand; what depends on the input is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.editing.steadying import steady
from si_hub.errors import ConversionRefused, UsageError
from si_hub.storage.tensors import Tensor


def adapter_of(**extra: Any) -> Adapter:
    dice = np.random.default_rng(0)
    tensors = {
        "down.weight": Tensor.from_numpy(dice.standard_normal((6, 4)).astype("<f2")),
        "up.weight": Tensor.from_numpy(dice.standard_normal((5, 2)).astype("<f2")),
        "router.bias": Tensor.from_numpy(np.array([0.0, 1.0, -1.0], "<f4")),
    }
    tensors |= extra.pop("tensors", {})
    layers = {"conv_in": Layer(tensors, 4.0, **extra)}
    return Adapter(BaseModel("sd15"), {"unet": Component(None, layers)}, ("ink", "neon", "oil"))


def down_of(adapter: Adapter) -> Any:
    return adapter.components["unet"].layers["conv_in"].tensors["down.weight"].numpy()


def test_styles_are_summed_by_their_weights() -> None:
    adapter = adapter_of()
    branches = down_of(adapter).astype(np.float64).reshape(3, 2, 4)
    mixed = steady(adapter, {"ink": 0.7, "oil": -0.4})
    np.testing.assert_allclose(down_of(mixed), 0.7 * branches[0] - 0.4 * branches[2], rtol=1e-6)
    layer = mixed.components["unet"].layers["conv_in"]
    assert (layer.branches, layer.alpha, mixed.branches) == (1, 4.0, ())
    assert not any(leaf.startswith("router") for leaf in layer.tensors)


def test_one_style_alone_keeps_its_bytes() -> None:
    adapter = adapter_of()
    one = steady(adapter, {"neon": 1.0}).components["unet"].layers["conv_in"].tensors["down.weight"]
    assert one.dtype == "F16"
    assert one.tobytes() == down_of(adapter)[2:4].tobytes()


def test_a_fixed_router_says_the_mix() -> None:
    adapter = adapter_of()
    shares = np.exp([0.0, 1.0, -1.0]) / np.exp([0.0, 1.0, -1.0]).sum()
    expected = np.tensordot(shares, down_of(adapter).astype(np.float64).reshape(3, 2, 4), 1)
    np.testing.assert_allclose(down_of(steady(adapter)), expected, rtol=1e-6)


def test_what_depends_on_the_input_is_refused() -> None:
    learned = adapter_of(tensors={"router.weight": Tensor.from_numpy(np.ones((3, 4), "<f4"))})
    with pytest.raises(ConversionRefused, match=r"unet\.conv_in: its router chooses styles by the input.*styles="):
        steady(learned)
    assert down_of(steady(learned, {"ink": 1.0})).shape == (2, 4)
    with pytest.raises(ConversionRefused, match=r"injection depends on the features.*found variance"):
        steady(adapter_of(transform="variance"), {"ink": 1.0})
    with pytest.raises(UsageError, match="no such style"):
        steady(learned, {"pastel": 1.0})
