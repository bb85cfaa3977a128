"""Effects of parts: exactly what the projected output gains when the part is put into the layer, sample by sample."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from si_hub.distill.running.tracing import trace
from si_hub.distill.survey.effects import ChangeParts, Effects

Part = Callable[[nn.Module], dict[str, Tensor]]
KEY = ("unet", "layer")


def gain(layer: nn.Module, given: Tensor, signs: Tensor, leaf: str, change: Tensor) -> Tensor:
    """What the projection gains in each sample, by running the layer with and without the change in float64."""
    before = layer(given)
    with torch.no_grad():
        layer.get_parameter(leaf).add_(change)
        after = layer(given)
        layer.get_parameter(leaf).sub_(change)
    gained: Tensor = ((after - before) * signs).flatten(1).sum(1)
    return gained


def observed(layer: nn.Module, parts: ChangeParts, given: Tensor, signs: Tensor) -> Tensor:
    effects = Effects({KEY: parts})
    effects.begin(len(signs))
    with trace({KEY: layer}, len(signs), effects.observe):
        (layer(given) * signs).sum().backward()
    return effects.take()


LAYERS = [
    (nn.Linear(6, 5), (3, 7, 6)),
    (nn.Linear(6, 5, bias=False), (3, 6)),
    (nn.Conv2d(4, 5, 3, padding=1), (3, 4, 6, 6)),
    (nn.Conv2d(4, 5, 3, stride=2, padding=1), (3, 4, 6, 6)),
    (nn.Conv2d(4, 5, 1), (3, 4, 2, 2)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda value: repr(value))
def test_a_piece_has_the_effect_that_running_the_layer_with_it_shows(
    layer: nn.Linear | nn.Conv2d, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    layer = layer.double().requires_grad_(False)
    given = torch.randn(shape, dtype=torch.float64)
    signs = torch.randn_like(layer(given))
    width = layer.weight[0].numel()
    down, up = torch.randn(2, width, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    bias = torch.randn(5, dtype=torch.float64) if layer.bias is not None else None
    parts = ChangeParts(down, up, bias=bias, kernel=tuple(layer.weight.shape[1:]))
    found = observed(layer, parts, given, signs)
    expected = [
        gain(layer, given, signs, "weight", torch.outer(up[:, k], down[k]).reshape(layer.weight.shape))
        for k in range(2)
    ]
    expected += [] if bias is None else [gain(layer, given, signs, "bias", bias)]
    assert parts.names == (["0", "1"] if bias is None else ["0", "1", "bias"])
    assert torch.allclose(found.double(), torch.stack(expected, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.LayerNorm(6), (3, 7, 6)), (nn.GroupNorm(2, 6), (3, 6, 4, 4)), (nn.RMSNorm(6), (3, 7, 6))],
    ids=lambda value: repr(value),
)
def test_a_norm_whole_has_the_effect_that_running_it_shows(layer: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    layer = layer.double().requires_grad_(False)
    given = torch.randn(shape, dtype=torch.float64)
    signs = torch.randn_like(layer(given))
    leaves = [name for name, _ in layer.named_parameters()]
    changes = {name: torch.randn(6, dtype=torch.float64) for name in leaves}
    parts = ChangeParts(weight=changes["weight"], bias=changes.get("bias"))
    expected = torch.stack([gain(layer, given, signs, name, change) for name, change in changes.items()], 1)
    assert torch.allclose(observed(layer, parts, given, signs).double(), expected, rtol=1e-4, atol=1e-4)


def test_an_embedding_has_the_effect_that_looking_up_shows() -> None:
    torch.manual_seed(2)
    layer = nn.Embedding(9, 4).double().requires_grad_(False)
    given, signs = torch.tensor([[1, 2, 3], [4, 4, 0]]), torch.randn(2, 3, 4, dtype=torch.float64)
    change = torch.randn(9, 4, dtype=torch.float64)
    found = observed(layer, ChangeParts(weight=change), given, signs)
    assert torch.allclose(found[:, 0].double(), gain(layer, given, signs, "weight", change), rtol=1e-4)


def test_positions_looked_up_once_for_the_batch_have_an_effect_of_each_sample() -> None:
    torch.manual_seed(3)
    layer = nn.Embedding(5, 4).double().requires_grad_(False)
    given, signs = torch.arange(5)[None], torch.randn(3, 5, 4, dtype=torch.float64)
    change = torch.randn(5, 4, dtype=torch.float64)
    found = observed(layer, ChangeParts(weight=change), given, signs)
    assert torch.allclose(found[:, 0].double(), (signs * change).flatten(1).sum(1), rtol=1e-4)


def test_a_layer_that_is_called_twice_has_the_sum_of_both_effects() -> None:
    torch.manual_seed(4)
    layer = nn.Linear(4, 4, bias=False).requires_grad_(False)
    one, two, signs = torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    parts = ChangeParts(torch.randn(1, 4), torch.randn(4, 1), kernel=(4,))
    effects = Effects({KEY: parts})
    effects.begin(2)
    with trace({KEY: layer}, 2, effects.observe):
        ((layer(one) + layer(two)) * signs).sum().backward()
    expected = observed(layer, parts, one, signs) + observed(layer, parts, two, signs)
    assert torch.allclose(effects.take(), expected, atol=1e-5)
    assert not effects.take().any()


def test_a_gradient_of_the_whole_batch_at_once_is_left_out() -> None:
    layer = nn.Linear(4, 4).requires_grad_(False)
    parts = ChangeParts(torch.randn(1, 4), torch.randn(4, 1), kernel=(4,))
    effects = Effects({KEY: parts})
    effects.begin(3)
    with trace({KEY: layer}, 3, effects.observe):
        (layer(torch.randn(1, 2, 4)) * torch.randn(3, 2, 4)).sum().backward()
    assert not effects.take().any()
