from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import si_hub.tuner as tuner
from si_hub.adapter import Component, Layer
from si_hub.errors import ConversionRefused, NotFinite, UsageError
from si_hub.storage.tensors import Tensor as Stored


@pytest.mark.parametrize("optional", ["none", "gain", "gain_in", "weight_delta", "bias_delta", "kron", "core", "all"])
def test_a_fused_layer_is_the_layer_with_its_adapter(case: Any, optional: str, make_layer: Any, close: Any) -> None:
    base = case.base().double()
    if getattr(base, "groups", 1) > 1:
        pytest.skip("refused, see below")
    if base.bias is None and optional in {"bias_delta", "all"}:
        pytest.skip("refused, see below")
    model = nn.Sequential(base)
    tuner.inject(model, Component(layers={"0": make_layer(base, 1, optional)}), name="style")
    tuner.set_active(model, {"style": 0.7})
    x = torch.randn(case.batch).double()
    weight, bias = base.weight.detach().clone(), base.bias
    expected = model(x).detach()
    tuner.fuse_in_place(model)
    assert not torch.equal(base.weight, weight)
    close(model(x).detach(), expected)
    tuner.unfuse(model)
    assert torch.equal(base.weight, weight)
    assert base.bias is bias


@pytest.mark.parametrize(
    ("base", "leaf", "lacks"),
    [(nn.Linear(12, 8, bias=False), "bias_delta", "bias"), (nn.LayerNorm(8, bias=False), "bias_delta", "bias"),
     (nn.LayerNorm(8, elementwise_affine=False), "gain", "weight")],
)  # fmt: skip
def test_what_the_module_has_no_parameter_for_acts_and_is_not_fused(base: nn.Module, leaf: str, lacks: str) -> None:
    model = nn.Sequential(base)
    keys = set(model.state_dict())
    layer = Layer({leaf: Stored.from_torch(torch.full((8,), 3.0))})
    tuner.inject(model, Component(layers={"0": layer}), name="style")
    x = torch.randn(2, 12 if isinstance(base, nn.Linear) else 8)
    expected = base.forward(x) + 3 if leaf == "bias_delta" else base.forward(x) * 3
    torch.testing.assert_close(model(x), expected)
    with pytest.raises(ConversionRefused, match=f"a {leaf} needs a {lacks}, and the module has none"):
        tuner.fuse_in_place(model)
    torch.testing.assert_close(model(x), expected)
    tuner.remove(model)
    assert set(model.state_dict()) == keys


def test_fixed_styles_fuse_and_stay_fixed(net: nn.Module, ids: Tensor, whole: Any) -> None:
    tuner.inject(net, whole(), name="style", branches=["ink", "neon"])
    tuner.set_styles(net, {"ink": 0.7, "neon": 0.3})
    expected = net(ids)
    tuner.fuse_in_place(net)
    torch.testing.assert_close(net(ids), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="style: a fused adapter's styles are fixed"):
        tuner.set_styles(net, None)


def test_a_fixed_router_fuses(net: nn.Module, ids: Tensor, whole: Any) -> None:
    component = whole()
    for layer in component.layers.values():
        del layer.tensors["router.weight"]
    tuner.inject(net, component, name="style")
    expected = net(ids)
    tuner.fuse_in_place(net)
    torch.testing.assert_close(net(ids), expected, rtol=1e-4, atol=1e-4)


def test_norms_and_bare_parameters_fuse(net: nn.Module, ids: Tensor) -> None:
    def layer(**tensors: Tensor) -> Layer:
        return Layer({name: Stored.from_torch(tensor) for name, tensor in tensors.items()})

    layers = {
        "embed": layer(weight_delta=torch.randn(11, 12)),
        "norm": layer(weight_delta=torch.randn(12), bias_delta=torch.randn(12)),
        "rms": layer(gain=torch.randn(12)),
        "group": layer(gain=torch.randn(8), bias_delta=torch.randn(8)),
        "table": layer(param_delta=torch.randn(8, 1, 1)),
    }
    before = net(ids)
    tuner.inject(net, Component(layers=layers), name="style")
    expected = net(ids)
    tuner.fuse_in_place(net)
    torch.testing.assert_close(net(ids), expected, rtol=1e-4, atol=1e-4)
    tuner.unfuse(net)
    assert torch.equal(net(ids), expected)
    tuner.remove(net)
    assert torch.equal(net(ids), before)


def test_what_is_not_exact_is_refused_with_the_way_out(net: nn.Module, whole: Any, make_layer: Any) -> None:
    tuner.inject(net, whole(), name="routed", branches=["ink", "neon"])
    with pytest.raises(ConversionRefused, match=r"set_styles first"):
        tuner.fuse_in_place(net)
    tuner.remove(net)
    tuner.inject(net, whole(n=1, transform="restyle"), name="bent")
    with pytest.raises(ConversionRefused, match=r"expected transform add, found restyle"):
        tuner.fuse_in_place(net)
    grouped = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))
    tuner.inject(grouped, Component(layers={"0": make_layer(grouped[0], 1, "none")}), name="grouped")
    with pytest.raises(ConversionRefused, match="grouped convolution"):
        tuner.fuse_in_place(grouped)


def test_a_refused_fuse_changes_nothing(net: nn.Module, whole: Any) -> None:
    state = {name: value.clone() for name, value in net.state_dict().items()}
    tuner.inject(net, whole(n=1), name="good")
    tuner.inject(net, whole(n=1, transform="adain"), name="bad")
    with pytest.raises(ConversionRefused):
        tuner.fuse_in_place(net)
    component = whole(n=1, seed=3)
    component.layers["fc"].tensors["up.weight"] = Stored.from_torch(torch.full((8, 4), torch.nan))
    tuner.inject(net, component, name="broken")
    with pytest.raises(NotFinite, match=r"fc.weight"):
        tuner.fuse_in_place(net, ["good", "broken"], safe=True)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in state.items())
    assert all(adapter.fused is None for adapter in tuner.adapters(net).values())


def test_a_fused_adapter_does_not_act_twice(net: nn.Module, ids: Tensor, whole: Any) -> None:
    tuner.inject(net, whole(n=1), name="style")
    expected = net(ids)
    tuner.fuse_in_place(net)
    tuner.set_active(net, {"style": 1.0})
    tuner.set_enabled(net, True)
    torch.testing.assert_close(net(ids), expected, rtol=1e-4, atol=1e-4)


def test_removing_a_fused_adapter_unfuses_it(net: nn.Module, ids: Tensor, whole: Any) -> None:
    before = net(ids)
    tuner.inject(net, whole(n=1, seed=1), name="one")
    tuner.inject(net, whole(n=1, seed=2), name="two")
    tuner.fuse_in_place(net)
    tuner.remove(net, "one")
    with_two = net(ids)
    tuner.remove(net, "two")
    assert torch.equal(net(ids), before)
    assert not torch.equal(with_two, before)


def test_weights_that_something_else_changed_are_not_thrown_away(net: nn.Module, whole: Any) -> None:
    original = net.get_parameter("fc.weight").detach().clone()
    tuner.inject(net, whole(n=1), name="style")
    tuner.fuse_in_place(net)
    net.get_parameter("fc.weight").data += 1
    with pytest.warns(UserWarning, match=r"fc.weight was changed while an adapter was fused"):
        tuner.unfuse(net)
    torch.testing.assert_close(net.get_parameter("fc.weight"), original + 1)
    fused = net.get_parameter("fc.weight").detach().clone()
    tuner.fuse_in_place(net)
    tuner.unfuse(net)
    assert torch.equal(net.get_parameter("fc.weight"), fused)


def test_values_that_changed_places_count_as_changed(net: nn.Module, whole: Any) -> None:
    original = net.get_parameter("fc.weight").detach().clone()
    tuner.inject(net, whole(n=1), name="style")
    tuner.fuse_in_place(net)
    fused = net.get_parameter("fc.weight").detach().flip(0)
    net.get_parameter("fc.weight").data = fused.clone()
    with pytest.warns(UserWarning, match=r"fc.weight was changed while an adapter was fused"):
        tuner.unfuse(net)
    added = fused.flip(0) - original
    torch.testing.assert_close(net.get_parameter("fc.weight"), fused - added)


def test_a_fused_adapter_keeps_the_weight_it_was_fused_with(net: nn.Module, whole: Any) -> None:
    tuner.inject(net, whole(n=1, seed=1), name="one")
    tuner.inject(net, whole(n=1, seed=2), name="two")
    tuner.fuse_in_place(net, ["one"])
    alone = net.get_parameter("fc.weight").detach().clone()
    tuner.set_active(net, {"one": 0.3, "two": 1.0})
    tuner.fuse_in_place(net, ["two"])
    assert not torch.equal(net.get_parameter("fc.weight"), alone)
    tuner.unfuse(net, ["two"])
    assert torch.equal(net.get_parameter("fc.weight"), alone)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "casts",
    [(torch.bfloat16,), (torch.float16, torch.float32), (torch.float64,), (torch.bfloat16, torch.float64)],
)
@pytest.mark.parametrize("copied", [False, True])
def test_a_base_that_is_cast_while_fused_comes_back_as_its_own_cast(
    casts: tuple[torch.dtype, ...], copied: bool, net: nn.Module, whole: Any
) -> None:
    wanted = copy.deepcopy(net)
    tuner.inject(net, whole(n=1, seed=1), name="a")
    tuner.fuse_in_place(net)
    net = copy.deepcopy(net) if copied else net
    for dtype in casts:
        net.to(dtype)
        wanted.to(dtype)
    tuner.unfuse(net)
    tuner.remove(net)
    found = net.state_dict()
    assert list(found) == list(wanted.state_dict())
    for name, value in wanted.state_dict().items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


def test_what_nothing_was_fused_into_is_left_alone(net: nn.Module) -> None:
    weight, bias = net.get_parameter("fc.weight"), net.get_parameter("fc.bias")
    delta = Component(layers={"fc": Layer({"weight_delta": Stored.from_torch(torch.ones_like(weight))})})
    tuner.inject(net, delta, name="a")
    before = weight.detach().clone()
    tuner.fuse_in_place(net)
    bias.data = torch.full_like(bias, 7.0)
    tuner.unfuse(net)
    assert torch.equal(weight, before)
    assert torch.equal(bias, torch.full_like(bias, 7.0))


def test_half_precision_bases_come_back_bit_for_bit(net: nn.Module, whole: Any) -> None:
    net.to(torch.float16)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    tuner.inject(net, whole(n=1), name="style")
    tuner.fuse_in_place(net, scale=0.3)
    assert net.get_parameter("fc.weight").dtype == torch.float16
    tuner.remove(net)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in state.items())


_CALLS = st.one_of(
    st.tuples(st.just("fuse"), st.sampled_from([["one"], ["two"], ["one", "two"]]), st.sampled_from([0.5, 1.0])),
    st.tuples(st.just("unfuse"), st.sampled_from([None, ["one"], ["two"]]), st.just(0.0)),
    st.tuples(
        st.just("set_active"), st.sampled_from([["one"], ["two"], ["one", "two"], []]), st.sampled_from([0.3, 2.0])
    ),
    st.tuples(st.just("set_enabled"), st.just(None), st.sampled_from([0.0, 1.0])),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(_CALLS, max_size=8), delete_first=st.booleans())
def test_no_sequence_of_calls_can_change_the_base(calls: Any, delete_first: bool, whole: Any, net: nn.Module) -> None:
    state = {name: value.clone() for name, value in net.state_dict().items() if "styleinject" not in name}
    tuner.inject(net, whole(n=1, seed=1), name="one")
    tuner.inject(net, whole(n=1, seed=2), name="two")
    for call, names, number in calls:
        if call == "fuse":
            tuner.fuse_in_place(net, names, scale=number)
        elif call == "unfuse":
            tuner.unfuse(net, names)
        elif call == "set_active":
            tuner.set_active(net, dict.fromkeys(names, number))
        else:
            tuner.set_enabled(net, bool(number))
    if delete_first:
        tuner.remove(net, "one")
    else:
        tuner.unfuse(net)
        fused = [adapter.fused for adapter in tuner.adapters(net).values()]
        assert fused == [None, None]
        assert all(torch.equal(net.state_dict()[name], value) for name, value in state.items())
    tuner.remove(net)
    assert net.state_dict().keys() == state.keys()
    assert all(torch.equal(net.state_dict()[name], value) for name, value in state.items())
