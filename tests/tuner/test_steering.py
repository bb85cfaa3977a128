from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import si_hub.tuner as tuner
from si_hub.errors import UsageError


def test_a_new_adapter_acts_together_with_those_before(net: nn.Module, ids: Tensor, whole: Any) -> None:
    base = net(ids)
    tuner.inject(net, whole(seed=1), name="one")
    one = net(ids)
    tuner.inject(net, whole(seed=2), name="two")
    both = net(ids)
    tuner.set_active(net, {"two": 1.0})
    two = net(ids)
    states = tuner.adapters(net)
    assert [state.active for state in states.values()] == [False, True]
    assert not any(torch.equal(a, b) for a in (base, one) for b in (two, both))


def test_adapters_give_the_same_bits_in_any_order(ids: Tensor, net: nn.Module, whole: Any) -> None:
    # Two would prove nothing: a + b is b + a, bit for bit, and (a + b) + c is not a + (b + c).
    outputs = []
    for order in itertools.permutations(("ash", "bone", "coal")):
        for name in order:
            tuner.inject(net, whole(transform="restyle", seed=ord(name[0])), name=name)
        outputs.append(net(ids))
        tuner.remove(net)
    assert all(torch.equal(output, outputs[0]) for output in outputs[1:])


@pytest.mark.parametrize(
    "call",
    [
        lambda net: tuner.remove(net, "other"),
        lambda net: tuner.set_active(net, {"other": 1.0}),
        lambda net: tuner.set_styles(net, None, ["other"]),
        lambda net: tuner.fuse_in_place(net, ["other"]),
        lambda net: tuner.extract(net, "other"),
        lambda net: tuner.to_device(net, "other", "cpu"),
    ],
)
def test_unknown_adapters_are_an_error_that_lists_the_known(net: nn.Module, whole: Any, call: Any) -> None:
    tuner.inject(net, whole(), name="style")
    with pytest.raises(UsageError, match=r"other: no adapter of that name in the model \(found \['style'\]\)"):
        call(net)


def test_weights_are_numbers_or_functions_of_the_path(net: nn.Module, ids: Tensor, whole: Any) -> None:
    tuner.inject(net, whole(), name="style")
    tuner.set_active(net, {"style": lambda path: 0.5 if path == "fc" else 0.0})
    assert tuner.adapters(net)["style"].weights == {"fc": 0.5, "conv": 0.0}
    only_fc = net(ids)
    tuner.remove(net)
    component = whole()
    del component.layers["conv"]
    tuner.inject(net, component, name="style")
    tuner.set_active(net, {"style": 0.5})
    assert torch.equal(net(ids), only_fc)


def test_a_failing_weight_function_changes_nothing(net: nn.Module, whole: Any) -> None:
    tuner.inject(net, whole(), name="style")

    def fails(path: str) -> float:
        if path == "conv":
            raise KeyError(path)
        return 3.0

    with pytest.raises(KeyError):
        tuner.set_active(net, {"style": fails})
    assert tuner.adapters(net)["style"].weights == {"fc": 1.0, "conv": 1.0}


def test_disabling_is_the_base_and_enabling_gives_everything_back(net: nn.Module, ids: Tensor, whole: Any) -> None:
    base = net(ids)
    tuner.inject(net, whole(), name="style")
    tuner.set_active(net, {"style": 0.5})
    adapted = net(ids)
    tuner.set_enabled(net, False)
    assert torch.equal(net(ids), base)
    assert not tuner.adapters(net)["style"].enabled
    tuner.set_enabled(net, True)
    assert torch.equal(net(ids), adapted)


def test_styles_override_the_router_and_none_gives_it_back(net: nn.Module, ids: Tensor, whole: Any) -> None:
    tuner.inject(net, whole(), name="style", branches=["ink", "neon"])
    routed = net(ids)
    tuner.set_styles(net, {"ink": 1.0})
    ink = net(ids)
    assert tuner.adapters(net)["style"].styles == {"ink": 1.0}
    tuner.set_styles(net, {"neon": 1.0})
    assert not torch.equal(net(ids), ink)
    tuner.set_styles(net, None)
    assert torch.equal(net(ids), routed)
    with pytest.raises(UsageError, match=r"oil: no branch of that name \(found \['ink', 'neon'\]\)"):
        tuner.set_styles(net, {"oil": 1.0})


def test_one_branch_chosen_is_an_adapter_of_that_branch_alone(net: nn.Module, ids: Tensor, whole: Any) -> None:
    component = whole()
    tuner.inject(net, component, name="style", branches=["ink", "neon"])
    tuner.set_styles(net, {"neon": 1.0})
    neon = net(ids)
    tuner.remove(net)
    for layer in component.layers.values():
        layer.tensors["down.weight"] = layer.tensors["down.weight"].rows(4, 8)
        del layer.tensors["router.weight"], layer.tensors["router.bias"]
    tuner.inject(net, component, name="alone")
    torch.testing.assert_close(net(ids), neon)


def test_an_adapter_is_moved_and_nothing_else(net: nn.Module, whole: Any) -> None:
    tuner.inject(net, whole(), name="one")
    tuner.inject(net, whole(), name="two")
    tuner.to_device(net, "one", "meta")
    moved = {name for name, p in net.named_parameters() if p.device.type == "meta"}
    assert moved == {name for name, _ in net.named_parameters() if ".styleinject_layer.one." in name}
    with pytest.raises(UsageError, match="fc: the adapter is offloaded"):
        tuner.extract(net, "one")
