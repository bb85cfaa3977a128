"""Random sequences of every call that steers adapters, against a model of what each call means, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from si_hub import tuner
from si_hub.adapter import Component, Layer
from si_hub.errors import ConversionRefused, UsageError
from si_hub.tuner.door import find_door

PATHS = ("fc", "out")
CALLS = ("inject", "inject", "remove", "active", "active", "enabled", "styles", "fuse", "fuse", "fuse", "unfuse")
STYLES = (None, {"ink": 1.0}, {"ink": 0.25, "neon": 0.5}, {"neon": -1.0})


class Net(nn.Module):
    """Two linear layers on tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, L, 6]`` to the same."""
        found: Tensor = self.out(torch.tanh(self.fc(x)))
        return found


@dataclass(frozen=True)
class Adapter:
    """An adapter to be put in: its layers, and whether it is a matrix of its own without styles, or with them."""

    layers: dict[str, Layer]
    branches: tuple[str, ...] = ()
    constant: bool = True
    added: bool = True

    def fuses(self, styles: dict[str, float] | None) -> bool:
        """Whether its weights do not depend on the input."""
        return self.added and (self.constant or styles is not None)


@dataclass
class Known:
    """What calls have made of an adapter that is in the model; ``fused``: factor and styles, None where it is not."""

    weight: float = 1.0
    active: bool = True
    styles: dict[str, float] | None = None
    fused: float | None = None


@dataclass
class Meaning:
    """What the calls mean, without hooks, originals or anything else of the tuner's."""

    net: Net
    adapters: dict[str, Adapter]
    formula: Callable[..., Tensor]
    present: dict[str, Known] = field(default_factory=dict)
    enabled: bool = True
    matrices: dict[Any, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def values(self, name: str) -> tuple[float, ...] | None:
        """The styles of an adapter in the order of its branches."""
        styles = self.present[name].styles
        return None if styles is None else tuple(styles.get(branch, 0.0) for branch in self.adapters[name].branches)

    def matrix(self, name: str, path: str) -> tuple[Tensor, Tensor]:
        """What an adapter adds to a layer's weight and bias at weight 1, found by asking for the images of 0 and 1."""
        key = (name, path, self.values(name))
        if key not in self.matrices:
            base, layer = self.net.get_submodule(path), self.adapters[name].layers[path]
            points = torch.cat([torch.zeros(1, 6), torch.eye(6)]).double()[:, None]
            images = (self.formula(base, layer, points, 1.0, self.values(name)) - base(points).detach())[:, 0]
            self.matrices[key] = (images[1:] - images[0]).T, images[0]
        return self.matrices[key]

    def layer(self, path: str, x: Tensor) -> Tensor:
        """The output of one layer: the base with what is fused, and on it what acts."""
        names = [name for name in self.present if path in self.adapters[name].layers]
        origin = self.net.get_submodule(path)
        assert isinstance(origin, nn.Linear)
        base = nn.Linear(6, 6).double().requires_grad_(False)
        base.weight.copy_(origin.weight)
        base.bias.copy_(origin.bias)
        for name in names:
            factor = self.present[name].fused
            if factor is not None:
                weight, bias = self.matrix(name, path)
                base.weight.add_(weight, alpha=factor)
                base.bias.add_(bias, alpha=factor)
        h: Tensor = base(x)
        total = h
        for name in names:
            known = self.present[name]
            if self.enabled and known.active and known.fused is None and known.weight:
                layer = self.adapters[name].layers[path]
                total = total + self.formula(base, layer, x, known.weight, self.values(name)) - h
        return total

    def output(self, x: Tensor) -> Tensor:
        """What the model has to give."""
        return self.layer("out", torch.tanh(self.layer("fc", x)))


def step(random: Random, net: Net, meaning: Meaning) -> None:
    """One random call, on the model and on its meaning; what is refused changes neither."""
    present = meaning.present
    some = [name for name in present if random.random() < 0.5]
    call = random.choice(
        ["inject", "inject", "remove", "active", "active", "enabled", "styles", "fuse", "fuse", "unfuse"]
    )
    if call == "inject":
        name = random.choice(list(meaning.adapters))
        made = meaning.adapters[name]
        if name in present:
            with pytest.raises(UsageError, match="already"):
                tuner.inject(net, Component(layers=made.layers), name=name)
        else:
            tuner.inject(net, Component(layers=made.layers), name=name, branches=made.branches)
            present[name] = Known()
            meaning.enabled = meaning.enabled or len(present) == 1
    elif call == "remove" and some:
        tuner.remove(net, some[0])
        del present[some[0]]
    elif call == "active" and present:
        weights = {name: random.choice([0.0, 0.5, -1.0, 2.0]) for name in some}
        tuner.set_active(net, weights)
        for name, known in present.items():
            known.active = name in weights
            known.weight = weights.get(name, known.weight)
    elif call == "enabled" and present:
        meaning.enabled = random.random() < 0.6
        tuner.set_enabled(net, meaning.enabled)
    elif call == "styles" and present:
        styled = [name for name in some if meaning.adapters[name].branches]
        styles = random.choice(STYLES)
        if any(present[name].fused is not None for name in styled):
            with pytest.raises(UsageError, match="fused"):
                tuner.set_styles(net, styles, styled)
        elif styled:
            tuner.set_styles(net, styles, styled)
            for name in styled:
                present[name].styles = styles
    elif call == "fuse" and some:
        scale = random.choice([0.5, 1.0])
        if random.random() < 0.7:
            some = [name for name in present if meaning.adapters[name].fuses(present[name].styles)]
        if all(meaning.adapters[name].fuses(present[name].styles) for name in some):
            tuner.fuse_in_place(net, some, scale=scale)
            for name in some:
                present[name].fused = scale * present[name].weight
        else:
            with pytest.raises(ConversionRefused):
                tuner.fuse_in_place(net, some, scale=scale)
    elif call == "unfuse" and present:
        tuner.unfuse(net, some)
        for name in some:
            present[name].fused = None


@pytest.fixture
def meaning(make_layer: Any, formula: Any) -> Meaning:
    net = Net().double().eval().requires_grad_(False)

    def layers(n: int, optional: str = "none", transform: str = "add", paths: tuple[str, ...] = PATHS) -> Any:
        return {path: make_layer(net.get_submodule(path), n, optional, transform) for path in paths}

    fixed = layers(2)
    for layer in fixed.values():
        del layer.tensors["router.weight"]
    adapters = {
        "plain": Adapter(layers(1)),
        "whole": Adapter(layers(1, "all", paths=("out",))),
        "routed": Adapter(layers(2), ("ink", "neon"), constant=False),
        "fixed": Adapter(fixed, ("ink", "neon")),
        "bent": Adapter(layers(1, transform="variance", paths=("fc",)), added=False),
    }
    return Meaning(net, adapters, formula)


@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=pytest.mark.slow)])
@torch.no_grad()
def test_any_sequence_of_calls_gives_what_it_means_and_leaves_the_base_bit_for_bit(
    count: int, meaning: Meaning, close: Any
) -> None:
    net = Net().double().eval().requires_grad_(False)
    net.load_state_dict(meaning.net.state_dict())
    before, modules = {name: value.clone() for name, value in net.state_dict().items()}, list(net.named_modules())
    x, fused = torch.randn(2, 3, 6).double(), 0
    for seed in range(count):
        random = Random(seed)
        for _ in range(random.randint(1, 20)):
            step(random, net, meaning)
        fused += any(known.fused is not None for known in meaning.present.values())
        close(net(x), meaning.output(x), 1e-9)
        tuner.remove(net)
        meaning.present.clear()
        meaning.enabled = True
        assert net.state_dict().keys() == before.keys(), seed
        assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items()), seed
        assert list(net.named_modules()) == modules
        assert find_door(net) is None
    assert fused > count / 6
