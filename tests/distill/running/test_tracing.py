"""What is observed in a backward pass: every module's input, and the gradient at its output, by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from si_hub.distill.pair.change import ModuleKey
from si_hub.distill.running.tracing import trace

Seen = list[tuple[ModuleKey, Tensor, Tensor]]


def keep(seen: Seen, key: ModuleKey, module: nn.Module, given: Tensor, gradient: Tensor) -> None:
    seen.append((key, given.clone(), gradient.clone()))


def test_each_layer_of_a_chain_shows_its_input_and_the_gradient_that_comes_back() -> None:
    """y = B A x, and of the sum of y with weights s the gradient is s at B's output, Bᵀ s at A's."""
    torch.manual_seed(0)
    a, b = nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)
    a.requires_grad_(False)
    b.requires_grad_(False)
    x, s = torch.randn(5, 3), torch.randn(5, 2)
    seen: Seen = []
    with trace({("unet", "a"): a, ("unet", "b"): b}, 5, lambda *each: keep(seen, *each)):
        (b(a(x)) * s).sum().backward()
    found = {key[1]: (given, gradient) for key, given, gradient in seen}
    assert [key[1] for key, _, _ in seen] == ["b", "a"]
    torch.testing.assert_close(found["a"][0], x)
    torch.testing.assert_close(found["b"][0], x @ a.weight.T)
    torch.testing.assert_close(found["b"][1], s)
    torch.testing.assert_close(found["a"][1], s @ b.weight)


def test_a_layer_that_is_called_twice_is_observed_twice() -> None:
    layer = nn.Linear(3, 3).requires_grad_(False)
    seen: Seen = []
    with trace({("unet", "a"): layer}, 2, lambda *each: keep(seen, *each)):
        layer(layer(torch.ones(2, 3))).sum().backward()
    assert len(seen) == 2


def test_what_is_looked_up_once_for_the_batch_has_a_gradient_of_every_sample() -> None:
    positions = nn.Embedding(4, 3).requires_grad_(False)
    s = torch.randn(5, 4, 3)
    seen: Seen = []
    with trace({("text_encoder", "p"): positions}, 5, lambda *each: keep(seen, *each)):
        (positions(torch.arange(4)[None]) * s).sum().backward()
    [(_, given, gradient)] = seen
    assert given.tolist() == [[0, 1, 2, 3]]
    torch.testing.assert_close(gradient, s)


def test_an_input_by_its_name_is_seen_and_afterwards_nothing_is() -> None:
    layer = nn.Linear(3, 3).requires_grad_(False)
    seen: Seen = []
    with trace({("unet", "a"): layer}, 1, lambda *each: keep(seen, *each)):
        layer(input=torch.ones(1, 3)).sum().backward()
    assert seen[0][1].tolist() == [[1.0, 1.0, 1.0]]
    assert not layer._forward_hooks
    assert not layer(torch.ones(1, 3)).requires_grad
