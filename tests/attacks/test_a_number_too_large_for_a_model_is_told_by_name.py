"""Finite numbers of float32 that a model in half precision would hold as infinity, and give black pictures for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from si_hub import tuner
from si_hub.adapter import Component, Layer
from si_hub.errors import NotFinite, NumberOverflow
from si_hub.pipelines import padding
from si_hub.storage.tensors import Tensor


class Net(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.table = nn.Parameter(torch.ones(4))
        self.to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) * self.table  # type: ignore[no-any-return]


def layer_of(leaf: str, value: float) -> Component:
    full = {"weight_delta": (4, 4), "bias_delta": (4,), "param_delta": (4,), "up.weight": (4, 1), "down.weight": (1, 4)}
    leaves = {"up.weight", "down.weight"} if "." in leaf else {leaf}
    tensors = {one: torch.full(full[one], value if one == leaf else 1.0) for one in leaves}
    path = "table" if leaf == "param_delta" else "fc"
    return Component(layers={path: Layer({one: Tensor.from_torch(tensor) for one, tensor in tensors.items()})})


@pytest.mark.parametrize("leaf", ["weight_delta", "bias_delta", "param_delta", "up.weight", "down.weight"])
@pytest.mark.parametrize(
    ("dtype", "value"), [(torch.float16, 7e4), (torch.float16, -1e38), (torch.bfloat16, 3.4e38)], ids=str
)
def test_it_is_refused_where_it_is_loaded(leaf: str, dtype: torch.dtype, value: float) -> None:
    net = Net(dtype)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(NumberOverflow, match=rf"\.?{leaf}: holds numbers too large for {str(dtype)[6:]}.*beyond it"):
        tuner.inject(net, layer_of(leaf, value), name="a")
    assert list(net.state_dict()) == list(before)
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())
    tuner.inject(Net(torch.float32), layer_of(leaf, value), name="a")


def test_the_largest_number_that_fits_is_kept() -> None:
    net = Net(torch.float16)
    tuner.inject(net, layer_of("bias_delta", 65504.0), name="a")
    net.fc.bias.data.zero_()
    assert net.fc(torch.zeros(1, 4, dtype=torch.float16)).tolist() == [[65504.0] * 4]


def test_a_sum_that_does_not_fit_is_not_fused() -> None:
    net = Net(torch.float16)
    net.fc.weight.data.fill_(60000.0)
    before = net.fc.weight.clone()
    tuner.inject(net, layer_of("weight_delta", 60000.0), name="a")
    with pytest.raises(NumberOverflow, match=r"fc\.weight: .*too large for float16"):
        tuner.fuse_in_place(net, safe=True)
    assert torch.equal(net.fc.weight, before)


def test_a_scale_that_does_not_fit_is_not_multiplied_in() -> None:
    net = Net(torch.float16)
    net.__dict__[padding._RANK] = 2
    component = layer_of("up.weight", 4.0)
    layer = component.layers["fc"]
    layer.tensors = {leaf: Tensor.from_torch(tensor.torch().half()) for leaf, tensor in layer.tensors.items()}
    layer.alpha = 30000.0
    with pytest.raises(NumberOverflow, match=r"unet\.fc\.up\.weight: holds numbers too large for float16"):
        padding.pad(net, component, "unet")


def test_what_was_infinite_before_is_not_called_too_large() -> None:
    net = Net(torch.float16)
    tuner.inject(net, layer_of("weight_delta", torch.inf), name="a")
    with pytest.raises(NotFinite):
        tuner.fuse_in_place(net, safe=True)
