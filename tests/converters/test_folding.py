"""A layer with a core and its folded form act the same, wherever they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import si_hub.tuner as tuner
from si_hub import format
from si_hub.adapter import TRANSFORMS, Adapter, BaseModel, Component, Layer
from si_hub.architectures import Architecture
from si_hub.architectures.model import Model, Module
from si_hub.converters.checking import Own
from si_hub.converters.folding import fold_core, multiply_core, square_core
from si_hub.editing.adding import add_layers
from si_hub.editing.splitting import split
from si_hub.editing.steadying import steady
from si_hub.format.layers import check_layer
from si_hub.pipelines import padding
from si_hub.storage.tensors import Tensor as Stored


def drawn(*shape: int) -> Stored:
    return Stored.from_torch(torch.randn(shape))


@st.composite
def layers(draw: Any) -> tuple[nn.Module, Layer, Tensor]:
    """A base module, a layer with a core for it, and a batch."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    into, out, rank, inner, n = (draw(st.integers(1, 4)) for _ in range(5))
    kernel = draw(st.sampled_from([(), (1, 1), (3, 2), (3, 3)]))
    if kernel:
        base: nn.Module = nn.Conv2d(
            into, out, kernel, stride=draw(st.integers(1, 2)), padding=draw(st.integers(0, 1)),
            dilation=draw(st.integers(1, 2)), padding_mode=draw(st.sampled_from(["zeros", "reflect", "circular"])),
        )  # fmt: skip
    else:
        base = nn.Linear(into, out)
    tensors = {"down.weight": drawn(inner, into, *[1] * len(kernel)), "core.weight": drawn(n * rank, inner, *kernel)}
    tensors["up.weight"] = drawn(out, rank)
    if n > 1:
        tensors["router.bias"] = drawn(n)
        if draw(st.booleans()):
            tensors["router.weight"] = drawn(n, into)
    beside = {"gain": (out,), "gain_in": (into,), "bias_delta": (out,), "weight_delta": (out, into, *kernel)}
    tensors |= {leaf: drawn(*beside[leaf]) for leaf in draw(st.sets(st.sampled_from(sorted(beside))))}
    alpha = draw(st.none() | st.floats(0.125, 8, width=32))
    x = torch.randn((2, into, 6, 6) if kernel else (2, 3, into))
    return base.double(), Layer(tensors, alpha, draw(st.sampled_from(TRANSFORMS))), x.double()


def act(base: nn.Module, layer: Layer, x: Tensor) -> Tensor:
    model = nn.Sequential(base)
    report = tuner.inject(model, Component(layers={"0": layer}), name="style")
    assert report.matched == ["0"], report
    try:
        return model(x).detach()  # type: ignore[no-any-return]
    finally:
        tuner.remove(model)


def assert_alike(one: Tensor, two: Tensor) -> None:
    # What is folded is float32: its rounding is all that may differ.
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4 * max(1.0, float(two.abs().max())))


@settings(max_examples=60, deadline=None)
@given(drawn=layers())
def test_folded_and_unfolded_act_the_same(drawn: tuple[nn.Module, Layer, Tensor]) -> None:
    base, layer, x = drawn
    folded = fold_core(layer)
    for one in (layer, folded):
        check_layer(one, "unet.layer")
    assert "core.weight" not in folded.tensors
    assert (folded.rank, folded.branches, folded.scale) == (layer.rank, layer.branches, layer.scale)
    assert_alike(act(base, folded, x), act(base, layer, x))
    assert fold_core(folded) is folded


@settings(max_examples=60, deadline=None)
@given(drawn=layers().filter(lambda found: found[1].branches == 1))
def test_a_core_made_square_acts_the_same(drawn: tuple[nn.Module, Layer, Tensor]) -> None:
    base, layer, x = drawn
    square = square_core(layer)
    check_layer(square, "unet.layer")
    core = square.tensors["core.weight"]
    assert core.shape[:2] == (max(layer.tensors["core.weight"].shape[:2]),) * 2
    assert all(tensor.dtype == layer.tensors[leaf].dtype for leaf, tensor in square.tensors.items())
    assert square.scale == pytest.approx(layer.scale)
    assert_alike(act(base, square, x), act(base, layer, x))


def test_the_product_is_that_of_every_entry() -> None:
    core, down = drawn(4, 3, 2, 1), drawn(3, 5, 1, 1)
    found, c, d = multiply_core(core, down), core.torch().double(), down.torch().double()
    assert found.dtype == torch.float64
    for row in range(4):
        for column in range(5):
            by_hand = sum(c[row, q] * d[q, column].item() for q in range(3))
            torch.testing.assert_close(found[row, column], by_hand)


def routed(n: int = 3, rank: int = 2, **extra: Stored) -> Layer:
    torch.manual_seed(7)
    pair = {"down.weight": drawn(5, 4, 1, 1), "core.weight": drawn(n * rank, 5, 3, 3), "up.weight": drawn(6, rank)}
    return Layer({**pair, **({"router.bias": drawn(n)} if n > 1 else {}), **extra}, alpha=3.0)


def adapter_of(layer: Layer, *names: str) -> Adapter:
    return Adapter(BaseModel("tiny"), {"unet": Component(None, {"conv": layer})}, names)


def weight_of(layer: Layer, styles: list[float] | None = None) -> Tensor:
    """alpha / rank · B · Σ s_i core_i ∘ down, entry by entry, float64."""
    up, core, down = (layer.tensors[f"{name}.weight"].torch().double() for name in ("up", "core", "down"))
    shares = torch.tensor(styles or [1.0], dtype=torch.float64)
    mixed = (shares[:, None, None, None, None] * core.reshape(len(shares), -1, *core.shape[1:])).sum(0)
    return layer.scale * torch.einsum("or,rqhw,qi->oihw", up, mixed, down[:, :, 0, 0])


def expected(adapter: Adapter) -> Tensor:
    base = Architecture("tiny", {"unet": Model("Net", {"conv": Module("conv", (6, 4, 3, 3), True)})})
    values = Own(adapter, base, None, Path("x")).expected(("unet", "conv")).weight
    assert values is not None
    return values()


def test_styles_are_mixed_over_cores_and_the_core_stays() -> None:
    layer = routed()
    mixed = steady(adapter_of(layer, "a", "b", "c"), {"a": 0.5, "c": -0.25})
    assert mixed.components["unet"].layers["conv"].tensors["core.weight"].shape == (2, 5, 3, 3)
    torch.testing.assert_close(expected(mixed), weight_of(layer, [0.5, 0.0, -0.25]), rtol=1e-6, atol=1e-6)


def test_each_branch_is_split_off_with_its_core(tmp_path: Path) -> None:
    layer = routed()
    # The second branch has one of two ranks, the third has none.
    core = layer.tensors["core.weight"].torch().clone()
    core[3:] = 0
    layer.tensors["core.weight"] = Stored.from_torch(core)
    other = Layer({"bias_delta": drawn(6)})
    whole = Adapter(BaseModel("tiny"), {"unet": Component(None, {"conv": layer, "other": other})}, ("a", "b", "c"))
    format.write(whole, tmp_path / "x.safetensors")
    parts = split(tmp_path / "x.safetensors", by="branch").paths
    found = {name: format.read(path).components["unet"].layers for name, path in parts.items()}
    assert set(found["c"]) == {"other"}
    for at, (name, rank) in enumerate((("a", 2), ("b", 1))):
        alone = [0.0, 0.0, 0.0]
        alone[at] = 1.0
        one = found[name]["conv"]
        assert one.tensors["core.weight"].shape == (rank, 5, 3, 3)
        torch.testing.assert_close(expected(adapter_of(one)), weight_of(layer, alone), rtol=0, atol=1e-12)


def test_layers_with_cores_are_added_up() -> None:
    one, other = routed(1), routed(1, 3)
    total = add_layers("unet.conv", [(one, 0.5), (other, -2.0)], lambda layer: pytest.fail("no product is expanded"))
    found = expected(adapter_of(total))
    torch.testing.assert_close(found, 0.5 * weight_of(one) - 2 * weight_of(other), rtol=1e-5, atol=1e-5)
    assert add_layers("unet.conv", [(one, 1.0)], lambda layer: pytest.fail("no product is expanded")) is one


def test_padding_for_hotswap_gives_pairs_that_act_the_same() -> None:
    model, layer = nn.Sequential(nn.Conv2d(4, 6, 3)), routed(1)
    model.__dict__["styleinject_hotswap_rank"] = 4
    padded = padding.pad(model, Component(layers={"0": layer})).layers["0"]
    assert (padded.rank, "core.weight" in padded.tensors) == (4, False)
    x = torch.randn(2, 4, 6, 6).double()
    base = nn.Conv2d(4, 6, 3).double()
    assert_alike(act(base, padded, x), act(base, layer, x))
