"""The ledger: layers come with the first adapter and go with the last, and only who should act does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from si_hub import tuner
from si_hub.adapter import Component, Layer
from si_hub.storage.tensors import Tensor
from si_hub.tuner.door import find_door
from si_hub.tuner.layer import CHILD
from si_hub.tuner.ledger import Ledger, Record


def bias(value: float) -> Layer:
    return Layer({"bias_delta": Tensor.from_torch(torch.full((3,), value))})


@pytest.fixture
def model() -> nn.Sequential:
    """Two layers of ones; ``a`` adds 1 to both, ``b`` adds 10 to the first."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tuner.inject(model, Component(layers={"0": bias(1.0), "1": bias(1.0)}), name="a")
    tuner.inject(model, Component(layers={"0": bias(10.0)}), name="b")
    return model


def ledger(model: nn.Module) -> Ledger:
    found = find_door(model)
    assert isinstance(found, Ledger)
    return found


def acting(model: nn.Module) -> dict[str, tuple[str, ...]]:
    return {path: site.layer.active for path, site in ledger(model).sites.items()}


def test_a_layer_knows_the_adapters_that_act_in_it(model: nn.Sequential) -> None:
    assert acting(model) == {"0": ("a", "b"), "1": ("a",)}
    found = ledger(model)
    assert set(found.records) == {"a", "b"}
    assert [base for base, _ in found.layers()] == [model[0], model[1]]


@pytest.mark.parametrize(
    ("change", "acts"),
    [
        ({"active": False}, False), ({"fused": 0.5}, False), ({"managed": False}, True), ({}, True),
    ],
)  # fmt: skip
def test_who_is_active_and_not_fused_acts(change: dict[str, object], acts: bool, model: nn.Sequential) -> None:
    found = ledger(model)
    for name, value in change.items():
        setattr(found.records["a"], name, value)
    found.refresh()
    assert found.acts("a") is acts
    assert acting(model) == {"0": ("a", "b") if acts else ("b",), "1": ("a",) if acts else ()}


def test_peft_s_switch_is_for_those_that_peft_knows(model: nn.Sequential) -> None:
    found = ledger(model)
    found.records["b"].managed = False
    assert found.peft_names() == ["b"]
    found.known_enabled = False
    assert (found.acts("a"), found.acts("b")) == (True, False)
    found.control.enabled = False
    assert (found.acts("a"), found.acts("b")) == (False, False)


def test_a_layer_goes_with_its_last_adapter_and_the_module_is_what_it_was(model: nn.Sequential) -> None:
    found = ledger(model)
    assert set(model[0]._modules) == {CHILD}
    found.drop("a")
    assert acting(model) == {"0": ("b",)}
    assert not model[1]._modules
    assert not model[1]._forward_hooks
    found.drop("b")
    assert not found.sites
    assert not found.records
    assert not model[0]._modules


def test_a_weight_is_one_for_all_or_by_path(model: nn.Sequential) -> None:
    x = torch.zeros(1, 3)
    base = [model.get_parameter(f"{path}.bias").detach().clone() for path in "01"]
    found = ledger(model)
    found.set_weight("a", 0.5)
    torch.testing.assert_close(model[0](x)[0], base[0] + 0.5 + 10.0)
    found.set_weight("a", lambda path: 0.0 if path == "0" else 3.0)
    torch.testing.assert_close(model[0](x)[0], base[0] + 10.0)
    torch.testing.assert_close(model[1](x)[0], base[1] + 3.0)


def test_a_new_record_is_active_alone_and_untrained() -> None:
    record = Record(managed=True)
    assert (record.active, record.branches, record.styles, record.fused, record.trainable) == (
        True,
        (),
        None,
        None,
        False,
    )
