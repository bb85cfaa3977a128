"""Two layers of adapters that claim one parameter, so that fusing counts it twice and unfusing loses the base."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from si_hub import tuner
from si_hub.adapter import Component, Layer
from si_hub.errors import BaseMismatch, ConversionRefused
from si_hub.storage.tensors import Tensor


class Net(nn.Module):
    """A convolution, a norm, two linear layers that share a weight, and a bare parameter called weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, 4, 1)
        self.norm = nn.LayerNorm(4)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv_in(x).mean((2, 3)))
        return self.second(self.first(x)) * self.weight  # type: ignore[no-any-return]


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.mark.parametrize(
    ("path", "shape", "leaf"),
    [("conv_in.weight", (4, 3, 1, 1), "weight_delta"), ("conv_in.bias", (4,), "bias_delta"),
     ("norm.weight", (4,), "weight_delta"), ("first.bias", (4,), "bias_delta")],
)  # fmt: skip
def test_what_belongs_to_a_layer_is_no_bare_parameter(net: Net, path: str, shape: tuple[int, ...], leaf: str) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first = Component(layers={path.partition(".")[0]: Layer({leaf: Tensor.from_torch(torch.full(shape, 0.1))})})
    second = Component(layers={path: Layer({"param_delta": Tensor.from_torch(torch.ones(shape))})})
    tuner.inject(net, first, name="a")
    with pytest.raises(BaseMismatch, match=f"{path}: is no bare parameter.*Store it as {leaf} of its module"):
        tuner.inject(net, second, name="b")
    both = Component(layers=first.layers | second.layers)
    with pytest.raises(BaseMismatch, match="is no bare parameter"):
        tuner.inject(net, both, name="c")
    tuner.fuse_in_place(net)
    tuner.remove(net)
    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_bare_parameter_of_any_name_is_changed(net: Net) -> None:
    component = Component(layers={"weight": Layer({"param_delta": Tensor.from_torch(torch.full((4,), 0.5))})})
    assert tuner.inject(net, component, name="a").matched == ["weight"]
    tuner.fuse_in_place(net)
    assert torch.equal(net.weight, torch.full((4,), 1.5))
    tuner.remove(net)
    assert torch.equal(net.weight, torch.ones(4))


@pytest.mark.parametrize("together", [True, False])
def test_layers_that_share_a_weight_act_and_are_not_fused_both(net: Net, together: bool) -> None:
    before = net.first.weight.detach().clone()
    x = torch.randn(2, 3, 2, 2)
    delta = 0.1 * torch.randn(4, 4)
    one = Component(layers={"first": Layer({"weight_delta": Tensor.from_torch(delta)})})
    two = Component(layers={"second": Layer({"weight_delta": Tensor.from_torch(-delta)})})
    if together:
        tuner.inject(net, Component(layers=one.layers | two.layers), name="a")
    else:
        tuner.inject(net, one, name="a")
        tuner.inject(net, two, name="b")
    hidden = net.norm(net.conv_in(x).mean((2, 3)))
    hidden = hidden @ (before + delta).T + net.first.bias
    expected = hidden @ (before - delta).T + net.second.bias
    assert torch.allclose(net(x), expected, atol=1e-5)
    if not together:
        tuner.fuse_in_place(net, "a")
    with pytest.raises(ConversionRefused, match="shares its weight with first"):
        tuner.fuse_in_place(net, None if together else "b")
    tuner.remove(net)
    assert torch.equal(net.first.weight, before)
    assert net.second.weight is net.first.weight
