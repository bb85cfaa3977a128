from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import si_hub.tuner as tuner
from si_hub.adapter import Component, Layer
from si_hub.errors import BaseMismatch
from si_hub.storage.tensors import Tensor as Stored


def _component(delta: Tensor, path: str = "table") -> Component:
    return Component(layers={path: Layer({"param_delta": Stored.from_torch(delta)})})


def test_the_parent_sees_the_changed_parameter_while_it_runs(net: nn.Module, ids: Tensor) -> None:
    delta, table = torch.randn(8, 1, 1), net.get_parameter("table")
    base = net(ids)
    tuner.inject(net, _component(delta), name="style")
    tuner.set_active(net, {"style": 0.5})
    got = net(ids)
    assert net.table is table
    tuner.remove(net)
    assert torch.equal(net(ids), base)
    assert net.table is table
    table.data = table.data + 0.5 * delta
    assert torch.equal(net(ids), got)


def test_several_adapters_of_one_parameter_add_up(net: nn.Module, ids: Tensor) -> None:
    deltas = {"a": torch.randn(8, 1, 1), "b": torch.randn(8, 1, 1)}
    for name, delta in deltas.items():
        tuner.inject(net, _component(delta), name=name)
    got = net(ids)
    tuner.remove(net)
    table = net.get_parameter("table")
    table.data = table.data + deltas["a"] + deltas["b"]
    torch.testing.assert_close(net(ids), got)


def test_an_exception_in_the_forward_leaves_the_parameter(net: nn.Module) -> None:
    tuner.inject(net, _component(torch.ones(8, 1, 1)), name="style")
    table = net._parameters["table"]
    with pytest.raises(IndexError):
        net(torch.full((1, 4, 5), 99))
    assert net.table is table


def test_a_copy_is_independent(net: nn.Module, ids: Tensor) -> None:
    base = net(ids)
    tuner.inject(net, _component(torch.ones(8, 1, 1)), name="style")
    twin = copy.deepcopy(net)
    tuner.remove(net)
    assert torch.equal(net(ids), base)
    torch.testing.assert_close(twin(ids), base + 1)
    tuner.remove(twin)
    assert torch.equal(twin(ids), base)


def test_gradients_flow_through_the_changed_parameter(net: nn.Module, ids: Tensor) -> None:
    tuner.inject(net, _component(torch.zeros(8, 1, 1)), name="style")
    delta = net.get_parameter("styleinject_layer_table.style.param_delta.weight").requires_grad_(True)
    net(ids).sum().backward()
    torch.testing.assert_close(delta.grad, torch.full((8, 1, 1), 60.0))


def test_a_wrong_shape_is_reported(net: nn.Module) -> None:
    report = tuner.inject(net, _component(torch.ones(8)), name="style")
    assert [str(wrong) for wrong in report.mismatched] == ["table.param_delta: expected [8, 1, 1], found [8]"]


def test_an_unknown_parameter_is_missing(net: nn.Module) -> None:
    assert tuner.inject(net, _component(torch.ones(8), "fc.nothing"), name="style").missing == ["fc.nothing"]


def test_an_offloaded_parameter_is_an_error_that_says_what_to_do(net: nn.Module, ids: Tensor) -> None:
    tuner.inject(net, _component(torch.ones(8, 1, 1)), name="style")
    net._parameters["table"] = nn.Parameter(torch.ones(8, 1, 1, device="meta"))
    with pytest.raises(BaseMismatch, match="enable_model_cpu_offload"):
        net(ids)
