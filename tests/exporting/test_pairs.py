"""Layers as plain pairs: the same matrices, by numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from si_hub.adapter import Layer
from si_hub.exporting.pairs import carry_bias, expand_product, fill_biases
from si_hub.storage.tensors import Tensor


def numbers(*shape: int, dtype: str = "<f4") -> Tensor:
    return Tensor.from_numpy(np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype))


def multiply(layer: Layer) -> Any:
    up, down = (layer.tensors[leaf].numpy().astype(np.float64) for leaf in ("up.weight", "down.weight"))
    return layer.scale * up @ down.reshape(len(down), -1)


@pytest.mark.parametrize("left", [(2, 3), (3, 2), (2, 2)])
@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_a_product_is_one_pair(left: tuple[int, int], kernel: tuple[int, ...]) -> None:
    layer = Layer(
        {"kron": numbers(*left), "up.weight": numbers(9, 2), "down.weight": numbers(2, 8, *kernel),
         "bias_delta": numbers(9 * left[0])}, 3.0,
    )  # fmt: skip
    pair = expand_product(layer)
    assert set(pair.tensors) == {"up.weight", "down.weight", "bias_delta"}
    assert pair.rank == 2 * min(left)
    assert pair.tensors["down.weight"].shape == (pair.rank, 8 * left[1], *kernel)
    expected = np.kron(layer.tensors["kron"].numpy().astype(np.float64), multiply(Layer(layer.tensors, 3.0)))
    np.testing.assert_allclose(multiply(pair), expected, rtol=1e-5, atol=1e-6)


def test_what_is_no_smaller_as_a_pair_stays() -> None:
    large = Layer({"kron": numbers(4, 4), "up.weight": numbers(3, 2), "down.weight": numbers(2, 3)})
    whole = Layer({"kron": numbers(2, 2), "weight_delta": numbers(9, 8)})
    assert expand_product(large) is large
    assert expand_product(whole) is whole


def test_a_bias_alone_goes_with_a_pair_of_zeros() -> None:
    layer = carry_bias(Layer({"bias_delta": numbers(5, dtype="<f2")}), (5, 4, 3, 3))
    assert {leaf: tensor.shape for leaf, tensor in layer.tensors.items()} == {
        "bias_delta": (5,), "down.weight": (1, 4, 3, 3), "up.weight": (5, 1),
    }  # fmt: skip
    assert not multiply(layer).any()
    both = Layer({"bias_delta": numbers(5), "weight_delta": numbers(5, 4)})
    assert carry_bias(both, (5, 4)) is both


def test_biases_are_of_all_pairs_or_of_none() -> None:
    spelled = {"a": {"up": numbers(5, 2)}, "b": {"up": numbers(4, 2), "up_bias": numbers(4)}}
    fill_biases(spelled)
    assert spelled["a"]["up_bias"].numpy().tolist() == [0.0] * 5
    none = {"a": {"up": numbers(5, 2)}}
    fill_biases(none)
    assert set(none["a"]) == {"up"}
