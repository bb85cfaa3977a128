from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import si_hub.tuner as tuner
from si_hub.adapter import TRANSFORMS, Component, Layer
from si_hub.errors import BaseMismatch
from si_hub.format.layers import check_layer
from si_hub.storage.tensors import Tensor as Stored
from si_hub.tuner.kinds import kind_of
from si_hub.tuner.layer import LayerAdapter
from si_hub.tuner.leaves import Placement, build_layer, mismatches


def _zeros(*shape: int) -> Stored:
    return Stored.from_torch(torch.zeros(shape))


_GOOD = {
    "down.weight": (6, 4, 3, 3),
    "up.weight": (8, 2),
    "router.weight": (3, 4),
    "router.bias": (3,),
    "gain": (8,),
    "gain_in": (4,),
    "weight_delta": (8, 4, 3, 3),
    "bias_delta": (8,),
}


def test_shapes_that_fit_are_no_mismatch() -> None:
    conv = nn.Conv2d(4, 8, 3)
    layer = Layer({leaf: _zeros(*shape) for leaf, shape in _GOOD.items()})
    assert mismatches("conv", conv, kind_of(conv, "conv"), layer) == []


@pytest.mark.parametrize("leaf", [leaf for leaf in _GOOD if leaf != "up.weight"])
@pytest.mark.parametrize("axis", range(4))
def test_every_axis_of_every_leaf_is_compared(leaf: str, axis: int) -> None:
    shape = list(_GOOD[leaf])
    if axis >= len(shape):
        shape += [1] * (axis + 1 - len(shape))
    shape[axis] += 6
    if leaf == "down.weight" and axis == 0:
        pytest.skip("six rows more are three branches more")
    conv = nn.Conv2d(4, 8, 3)
    layer = Layer({name: _zeros(*size) for name, size in _GOOD.items()} | {leaf: _zeros(*shape)})
    assert [wrong.leaf for wrong in mismatches("conv", conv, kind_of(conv, "conv"), layer)] == [leaf]


_CORED = {"down.weight": (5, 4, 1, 1), "core.weight": (6, 5, 3, 3)}


@pytest.mark.parametrize(
    ("leaf", "axis"), [("down.weight", 1), ("down.weight", 2), *(("core.weight", n) for n in range(1, 4))]
)
def test_every_axis_of_a_core_and_what_it_takes_is_compared(leaf: str, axis: int) -> None:
    conv = nn.Conv2d(4, 8, 3)
    layer = Layer({name: _zeros(*size) for name, size in (_GOOD | _CORED).items()})
    assert (layer.branches, mismatches("conv", conv, kind_of(conv, "conv"), layer)) == (3, [])
    shape = list(_CORED[leaf])
    shape[axis] += 2
    layer.tensors[leaf] = _zeros(*shape)
    assert [wrong.leaf for wrong in mismatches("conv", conv, kind_of(conv, "conv"), layer)] == [leaf]


def test_a_core_beside_kron_or_in_a_grouped_convolution_is_refused() -> None:
    for base, extra, words in (
        (nn.Conv2d(4, 8, 3, groups=2), {"up.weight": (8, 1)}, "grouped convolution"),
        (nn.Conv2d(4, 8, 3), {"kron": (2, 2)}, "not with a core"),
    ):
        shapes = {"down.weight": (5, 4), "core.weight": (2, 5, 3, 3), "up.weight": (8, 2), **extra}
        layer = Layer({name: _zeros(*size) for name, size in shapes.items()}, groups=base.groups)
        place = Placement(torch.device("cpu"), torch.float32, True)
        with pytest.raises(BaseMismatch, match=words):
            build_layer("conv", base, kind_of(base, "conv"), layer, place)


def test_branches_that_the_router_does_not_have_are_a_mismatch() -> None:
    conv = nn.Conv2d(4, 8, 3)
    layer = Layer({name: _zeros(*size) for name, size in _GOOD.items()} | {"down.weight": _zeros(8, 4, 3, 3)})
    wrong = {found.leaf for found in mismatches("conv", conv, kind_of(conv, "conv"), layer)}
    assert wrong == {"router.weight", "router.bias"}


@pytest.mark.parametrize("leaf", ["down.weight", "router.bias", "gain_in", "kron"])
def test_a_norm_carries_no_product(leaf: str) -> None:
    norm = nn.LayerNorm(4)
    wrong = mismatches("norm", norm, kind_of(norm, "norm"), Layer({leaf: _zeros(4, 4)}))
    assert [(found.leaf, found.expected) for found in wrong] == [(leaf, f"no {leaf} for LayerNorm")]


def test_a_norm_without_parameters_carries_a_bias_but_no_weight() -> None:
    norm = nn.LayerNorm(4, elementwise_affine=False)
    layer = Layer({"weight_delta": _zeros(4), "bias_delta": _zeros(4)})
    assert [wrong.leaf for wrong in mismatches("norm", norm, kind_of(norm, "norm"), layer)] == ["weight_delta"]


@pytest.mark.parametrize("shape", [(3, 4), (2, 5), (4,), (0, 2)])
def test_a_kronecker_factor_has_to_divide_the_layer(shape: tuple[int, ...]) -> None:
    linear = nn.Linear(4, 8)
    layer = Layer({"kron": _zeros(*shape), "weight_delta": _zeros(4, 2)})
    assert "kron" in [wrong.leaf for wrong in mismatches("fc", linear, kind_of(linear, "fc"), layer)]


def test_groups_have_to_be_those_of_the_base() -> None:
    conv = nn.Conv2d(4, 8, 3, groups=2)
    layer = Layer({"down.weight": _zeros(2, 4, 3, 3), "up.weight": _zeros(8, 2)})
    found = [str(wrong) for wrong in mismatches("conv", conv, kind_of(conv, "conv"), layer)]
    assert "conv.up.weight: expected groups 2, found groups 1" in found


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("up.weight", "fc.up.weight: half of a low-rank pair"),
        ("router.bias", "fc.router.bias: 3 branches need a router"),
    ],
)
def test_incomplete_layers_are_refused(missing: str, named: str) -> None:
    linear = nn.Linear(4, 8)
    shapes: dict[str, tuple[int, ...]] = {**_GOOD, "down.weight": (6, 4), "weight_delta": (8, 4)}
    layer = Layer({leaf: _zeros(*shape) for leaf, shape in shapes.items() if leaf != missing})
    with pytest.raises(BaseMismatch, match=named):
        build_layer("fc", linear, kind_of(linear, "fc"), layer, Placement(torch.device("cpu"), torch.float32, True))


@pytest.mark.parametrize("leaves", [{}, {"kron": (2, 2)}])
def test_a_layer_that_changes_nothing_is_refused(leaves: dict[str, tuple[int, ...]]) -> None:
    linear = nn.Linear(4, 8)
    layer = Layer({leaf: _zeros(*shape) for leaf, shape in leaves.items()})
    with pytest.raises(BaseMismatch, match="fc: the layer changes nothing"):
        build_layer("fc", linear, kind_of(linear, "fc"), layer, Placement(torch.device("cpu"), torch.float32, True))


@pytest.mark.parametrize(("has", "expected"), [(True, torch.float64), (False, torch.float32)])
def test_a_gain_of_a_file_is_float64_only_where_the_device_has_it(
    has: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("si_hub.tuner.leaves.has_float64", lambda device: has and device.type == "cpu")
    place = Placement(torch.device("cpu"), torch.float16, False)
    assert place(torch.ones(2, dtype=torch.float64), "gain").dtype == expected
    assert place(torch.ones(2, dtype=torch.float64), "up.weight").dtype == torch.float16


def test_a_gain_of_float64_goes_with_its_model_to_a_device_without(linear_with_gain: LayerAdapter) -> None:
    def move(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        return tensor.clone()

    linear_with_gain._apply(move)
    assert {value.dtype for value in linear_with_gain.parameters()} == {torch.float32}


@pytest.fixture
def linear_with_gain() -> LayerAdapter:
    linear, layer = nn.Linear(4, 8), Layer({"gain": Stored.from_torch(torch.ones(8, dtype=torch.float64))})
    built = build_layer("fc", linear, kind_of(linear, "fc"), layer, Placement(torch.device("cpu"), torch.float32, True))
    assert {value.dtype for value in built.parameters()} == {torch.float64}
    return built


_LEAVES = st.sets(
    st.sampled_from(["pair", "core", "router", "gain", "gain_in", "weight_delta", "bias_delta"]), min_size=1
)


@st.composite
def _layers(draw: Any) -> tuple[nn.Module, Layer, Tensor]:
    """A base module, any layer for it that the format allows, and a batch."""
    into, out, rank, n = (draw(st.integers(1, 4)) for _ in range(4))
    kernel = draw(st.sampled_from([(), (1, 1), (3, 2)]))
    base = nn.Conv2d(into, out, kernel) if kernel else nn.Linear(into, out)
    x = torch.randn((2, into, 4, 4) if kernel else (2, 3, into))
    chosen = draw(_LEAVES)
    shapes: dict[str, tuple[int, ...]] = {}
    if chosen & {"pair", "core", "router"}:
        shapes |= {"down.weight": (n * rank, into, *kernel), "up.weight": (out, rank)}
        if "core" in chosen:
            inner = draw(st.integers(1, 3))
            shapes |= {"down.weight": (inner, into, *[1] * len(kernel)), "core.weight": (n * rank, inner, *kernel)}
        if n > 1:
            shapes |= {"router.bias": (n,)} | ({"router.weight": (n, into)} if "router" in chosen else {})
    sizes = {"gain": (out,), "gain_in": (into,), "weight_delta": (out, into, *kernel), "bias_delta": (out,)}
    shapes |= {leaf: shape for leaf, shape in sizes.items() if leaf in chosen}
    tensors = {leaf: Stored.from_torch(torch.randn(shape)) for leaf, shape in shapes.items()}
    alpha = draw(st.none() | st.floats(0.125, 8, width=32))
    return base, Layer(tensors, alpha=alpha, transform=draw(st.sampled_from(TRANSFORMS))), x


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=_layers(), share=st.booleans())
def test_whatever_the_format_allows_goes_in_comes_out_and_leaves_no_trace(
    drawn: tuple[nn.Module, Layer, Tensor], share: bool
) -> None:
    base, layer, x = drawn
    check_layer(layer, "unet.layer")
    model = nn.Sequential(base)
    before = model(x)
    report = tuner.inject(model, Component(layers={"0": layer}), name="style", low_cpu_mem_usage=share)
    assert report.matched == ["0"]
    assert model(x).shape == before.shape
    back = tuner.extract(model, "style").layers["0"]
    check_layer(back, "unet.layer")
    assert (back.alpha, back.transform) == (layer.alpha, layer.transform)
    assert {k: (t.shape, t.tobytes()) for k, t in back.tensors.items()} == {
        k: (t.shape, t.tobytes()) for k, t in layer.tensors.items()
    }
    tuner.set_active(model, {"style": 0.0})
    assert torch.equal(model(x), before)
    tuner.remove(model)
    assert torch.equal(model(x), before)
    assert list(model.named_children()) == [("0", base)]
