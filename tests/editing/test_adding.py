"""Sums of layers of every kind: the matrices that they stand for, added in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.architectures import Architecture, Model
from si_hub.architectures.model import Module
from si_hub.converters.checking import Own
from si_hub.editing.adding import add_layers, as_branches
from si_hub.errors import ConversionRefused
from si_hub.storage.tensors import Tensor

OUT, IN = 6, 4
LONE = Architecture("lone", {"unet": Model("X", {"fc": Module("linear", (OUT, IN), True)})})
BASE = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BIAS = torch.randn(OUT, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def numbers(dice: np.random.Generator, *shape: int, dtype: str = "<f4") -> Tensor:
    return Tensor.from_numpy(dice.standard_normal(shape).astype(dtype))


def change(layer: Layer) -> tuple[Any, Any]:
    """ΔW and Δb by docs/FORMAT.md, by hand."""
    held = {leaf: tensor.numpy().astype(np.float64) for leaf, tensor in layer.tensors.items()}
    weight, bias = np.zeros((OUT, IN)), held.get("bias_delta", np.zeros(OUT))
    pair = held["up.weight"] @ held["down.weight"] * layer.scale if "up.weight" in held else None
    if "kron" in held:
        weight += np.kron(held["kron"], held["weight_delta"] if pair is None else pair)
    else:
        weight += held.get("weight_delta", 0) + (0 if pair is None else pair)
    if "gain" in held:
        weight, bias = weight + (held["gain"] - 1)[:, None] * BASE.numpy(), bias + (held["gain"] - 1) * BIAS.numpy()
    if "gain_in" in held:
        weight = weight + BASE.numpy() * (held["gain_in"] - 1)
    if "turn" in held:
        turn = torch.block_diag(*torch.from_numpy(held["turn"])).numpy()  # type: ignore[no-untyped-call]
        weight, bias = weight + turn @ BASE.numpy(), bias + turn @ BIAS.numpy()
    return weight, bias


def expand(layer: Layer) -> Any:
    adapter = Adapter(BaseModel("lone"), {"unet": Component(None, {"fc": layer})})
    return Own(adapter, LONE, None, Path("x")).expected(("unet", "fc"))


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    dice = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from(["<f4", "<f2"]))
    rank = draw(st.integers(1, 3))
    kind = draw(st.sampled_from(["pair", "pair", "delta", "kron", "kron pair", "gain", "turn"]))
    pair = {"down.weight": numbers(dice, rank, IN, dtype=dtype), "up.weight": numbers(dice, OUT, rank, dtype=dtype)}
    if kind == "kron":
        return Layer({"kron": numbers(dice, 3, 2), "weight_delta": numbers(dice, 2, 2)})
    if kind == "kron pair":
        right = {"down.weight": numbers(dice, 1, 2), "up.weight": numbers(dice, 2, 1)}
        return Layer({"kron": numbers(dice, 3, 2), **right}, 0.5)
    extra = {
        "pair": {}, "delta": {"weight_delta": numbers(dice, OUT, IN), "bias_delta": numbers(dice, OUT)},
        "gain": {"gain": numbers(dice, OUT), "gain_in": numbers(dice, IN)}, "turn": {"turn": numbers(dice, 2, 3, 3)},
    }[kind]  # fmt: skip
    held = {**(pair if kind == "pair" or draw(st.booleans()) else {}), **extra}
    return Layer(held, draw(st.sampled_from([None, 1.0, 5.0])) if "up.weight" in held else None)


@given(st.lists(st.tuples(layers(), st.floats(-2, 2)), min_size=1, max_size=5))
@settings(deadline=None, max_examples=200)
def test_a_sum_does_what_all_do_together(terms: list[tuple[Layer, float]]) -> None:
    total = add_layers("fc", terms, expand)
    changes = [(change(layer), weight) for layer, weight in terms]
    expected = sum(weight * one for (one, _), weight in changes), sum(weight * one for (_, one), weight in changes)
    found = change(total)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


def test_one_at_weight_1_keeps_its_bytes() -> None:
    layer = Layer(
        {"kron": numbers(np.random.default_rng(0), 3, 2), "weight_delta": numbers(np.random.default_rng(1), 2, 2)}
    )
    assert add_layers("fc", [(layer, 1.0)], expand) is layer


def test_rotations_in_other_blocks_are_refused() -> None:
    dice = np.random.default_rng(0)
    one, two = Layer({"turn": numbers(dice, 2, 3, 3)}), Layer({"turn": numbers(dice, 3, 2, 2)})
    with pytest.raises(ConversionRefused, match=r"fc: has a turn in blocks of other sizes"):
        add_layers("fc", [(one, 1.0), (two, 1.0)], expand)


def test_branches_are_what_each_was() -> None:
    dice = np.random.default_rng(0)
    pairs: list[Layer | None] = [
        Layer({"down.weight": numbers(dice, rank, IN), "up.weight": numbers(dice, OUT, rank)}, alpha)
        for rank, alpha in ((2, 1.0), (3, None))
    ]
    joined = as_branches([pairs[0], None, pairs[1]], (OUT, IN), [0.0, 0.0, 0.0])
    assert (joined.branches, joined.rank, joined.scale) == (3, 5, 1.0)
    downs = joined.tensors["down.weight"].numpy().reshape(3, 5, IN)
    up = joined.tensors["up.weight"].numpy()
    for branch, layer in ((0, pairs[0]), (2, pairs[1])):
        assert layer is not None
        np.testing.assert_allclose(up @ downs[branch], change(layer)[0], rtol=1e-5, atol=1e-6)
    assert not downs[1].any()
