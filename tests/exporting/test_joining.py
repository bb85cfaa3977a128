"""Fused modules: what the parts' layers do to their rows, by matrices laid out in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from si_hub.adapter import Layer
from si_hub.errors import ConversionRefused
from si_hub.exporting.joining import Slice, join_layers
from si_hub.storage.tensors import Tensor

Array = np.ndarray[Any, np.dtype[np.float64]]


def numbers(dice: np.random.Generator, *shape: int, dtype: str = "<f4") -> Tensor:
    return Tensor.from_numpy(dice.integers(-8, 9, shape).astype(dtype) / 8)


def change(layer: Layer, inputs: int) -> Array:
    """ΔW of a layer, float64."""
    held = {leaf: tensor.numpy().astype(np.float64) for leaf, tensor in layer.tensors.items()}
    pair = held["up.weight"] @ held["down.weight"] * layer.scale if "up.weight" in held else None
    if "kron" in held:
        return np.kron(held["kron"], held["weight_delta"] if pair is None else pair)
    whole = np.zeros((1, inputs)) if pair is None else pair
    return whole + held.get("weight_delta", 0)


@st.composite
def parts(draw: st.DrawFn) -> tuple[list[Slice], tuple[int, ...]]:
    dice = np.random.default_rng(draw(st.integers(0, 2**32)))
    inputs, shared = draw(st.integers(1, 4)), draw(st.booleans())
    dtypes = draw(st.sampled_from([["<f4"], ["<f2"], ["<f4", "<f2"]]))
    down = numbers(dice, 2, inputs)
    sizes, at = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4)), 0
    slices: list[Slice] = []
    for size in sizes:
        rows: tuple[tuple[int, int], ...] = ((at, at + size),)
        if size > 1 and draw(st.booleans()):
            rows = ((at + 1, at + size), (at, at + 1))  # swapped
        at += size
        layer: Layer | None = None
        if shared or draw(st.integers(0, 4)):
            dtype = draw(st.sampled_from(dtypes))
            rank = 2 if shared else draw(st.integers(1, 3))
            own = down if shared else numbers(dice, rank, inputs, dtype=dtype)
            tensors = {"down.weight": own, "up.weight": numbers(dice, size, rank, dtype="<f4" if shared else dtype)}
            if draw(st.booleans()):
                tensors["bias_delta"] = numbers(dice, size)
            if draw(st.booleans()):
                tensors["weight_delta"] = numbers(dice, size, inputs, dtype=dtype)
            layer = Layer(tensors, draw(st.sampled_from([None, 1.0, 3.0])) if not shared else 3.0)
        slices.append(Slice(f"part{len(slices)}", rows, layer))
    if all(one.layer is None for one in slices):
        slices[0] = Slice("part0", slices[0].rows, Layer({"bias_delta": numbers(dice, sizes[0])}))
    return slices, (at, inputs)


@given(parts())
@settings(deadline=None, max_examples=150)
def test_every_part_keeps_what_its_layer_does(made: tuple[list[Slice], tuple[int, ...]]) -> None:
    slices, (out, inputs) = made
    joined = join_layers("qkv", slices, (out, inputs))
    expected, bias = np.zeros((out, inputs)), np.zeros(out)
    for one in slices:
        index = np.concatenate([np.arange(start, stop) for start, stop in one.rows])
        if one.layer is not None:
            expected[index] = np.broadcast_to(change(one.layer, inputs), (len(index), inputs))
            if "bias_delta" in one.layer.tensors:
                bias[index] = one.layer.tensors["bias_delta"].numpy()
    np.testing.assert_allclose(np.broadcast_to(change(joined, inputs), (out, inputs)), expected, rtol=1e-6, atol=1e-6)
    found = joined.tensors.get("bias_delta")
    np.testing.assert_array_equal(bias, np.zeros(out) if found is None else found.numpy())


def test_a_shared_down_stays_one_with_its_bytes() -> None:
    dice = np.random.default_rng(0)
    down, ups = numbers(dice, 2, 3, dtype="<f2"), [numbers(dice, 4, 2, dtype="<f2") for _ in "qkv"]
    slices = [
        Slice(name, ((4 * at, 4 * at + 4),), Layer({"down.weight": down, "up.weight": up}, 1.5))
        for at, (name, up) in enumerate(zip("qkv", ups, strict=True))
    ]
    joined = join_layers("qkv", slices, (12, 3))
    assert (joined.rank, joined.alpha) == (2, 1.5)
    assert joined.tensors["down.weight"].tobytes() == down.tobytes()
    assert joined.tensors["up.weight"].tobytes() == b"".join(up.tobytes() for up in ups)


def test_pairs_of_one_dtype_keep_it_beside_zeros() -> None:
    dice = np.random.default_rng(1)
    layers = [
        Layer({"down.weight": numbers(dice, 2, 3, dtype="<f2"), "up.weight": numbers(dice, 4, 2, dtype="<f2")}, 1.0)
        for _ in "qk"
    ]
    slices = [Slice("q", ((0, 4),), layers[0]), Slice("k", ((4, 8),), layers[1])]
    joined = join_layers("qk", slices, (8, 3))
    up = joined.tensors["up.weight"].numpy()
    assert (joined.rank, joined.scale, up.dtype) == (4, 0.5, np.dtype("<f2"))
    assert not up[:4, 2:].any()
    assert not up[4:, :2].any()


def test_kronecker_products_of_one_right_factor_are_one() -> None:
    dice = np.random.default_rng(2)
    right = numbers(dice, 2, 3)
    layers = [Layer({"kron": numbers(dice, 3, 2), "weight_delta": right}) for _ in "qk"]
    slices = [Slice("q", ((0, 6),), layers[0]), Slice("k", ((6, 12),), layers[1])]
    joined = join_layers("qk", slices, (12, 6))
    np.testing.assert_array_equal(change(joined, 6), np.concatenate([change(layer, 6) for layer in layers]))
    layers[1].tensors["weight_delta"] = numbers(dice, 2, 3)
    with pytest.raises(ConversionRefused, match="Kronecker products of different factors"):
        join_layers("qk", slices, (12, 6))


def test_gains_cannot_be_parts_of_a_fused_module() -> None:
    gain = Layer({"gain": numbers(np.random.default_rng(3), 4)})
    with pytest.raises(ConversionRefused, match="part of a fused module"):
        join_layers("qk", [Slice("q", ((0, 4),), gain), Slice("k", ((4, 8),), None)], (8, 3))
