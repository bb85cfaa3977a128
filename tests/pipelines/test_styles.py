"""set_styles across the adapters of a pipeline."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from si_hub import tuner
from si_hub.adapter import Component, Layer
from si_hub.errors import UsageError
from si_hub.storage.tensors import Tensor

Make = Callable[..., Any]


def mixed(component: Component, styles: tuple[float, ...]) -> Component:
    """The single-branch component that a style mixture amounts to: A = Σ_i s_i A_i, by hand."""
    layers = {}
    for path, layer in component.layers.items():
        down = layer.tensors["down.weight"].torch()
        parts = down.reshape(len(styles), -1, *down.shape[1:])
        total = sum(style * part for style, part in zip(styles, parts, strict=True))
        tensors = {"down.weight": Tensor.from_torch(torch.as_tensor(total)), "up.weight": layer.tensors["up.weight"]}
        layers[path] = Layer(tensors, alpha=layer.alpha)
    return Component(component.class_name, layers)


def test_styles_mix_the_branches_with_the_weights_as_given_and_none_gives_the_router_back(
    sd: Make, lora: Make, adapter: Make, noise: Make, merged: Make, error: Make
) -> None:
    pipe = sd()
    part = lora(pipe.unet, branches=2)
    other = copy.copy(pipe)
    other.unet = merged(pipe.unet, mixed(part, (0.7, 0.9)))
    expected = noise(other)
    other.unet = merged(pipe.unet, mixed(part, (0.0, 1.0)))
    neon = noise(other)
    pipe.load_styleinject_weights(adapter(("ink", "neon"), unet=part))
    routed = noise(pipe)
    pipe.set_styles({"ink": 0.7, "neon": 0.9})
    assert error(noise(pipe), expected) < 1e-5
    pipe.set_styles({"neon": 1.0})
    assert error(noise(pipe), neon) < 1e-5
    pipe.set_styles(None)
    assert torch.equal(noise(pipe), routed)


def test_each_adapter_takes_the_styles_it_has(
    sd: Make, lora: Make, adapter: Make, noise: Make, merged: Make, error: Make
) -> None:
    pipe = sd()
    first, second = lora(pipe.unet, branches=2), lora(pipe.unet, ("conv1",), branches=2, seed=1)
    other = copy.copy(pipe)
    other.unet = merged(merged(pipe.unet, mixed(first, (0.5, 0.0))), mixed(second, (0.0, 0.25)))
    expected = noise(other)
    pipe.load_styleinject_weights(adapter(("ink", "neon"), unet=first), "a")
    pipe.load_styleinject_weights(adapter(("oil", "chalk"), unet=second), "b")
    pipe.set_styleinject_adapters(["a", "b"])
    pipe.set_styles({"ink": 0.5, "chalk": 0.25})
    assert error(noise(pipe), expected) < 1e-5


def test_only_the_named_adapters_are_mixed(sd: Make, lora: Make, adapter: Make, noise: Make) -> None:
    pipe = sd()
    for name in ("a", "b"):
        pipe.load_styleinject_weights(adapter(("ink", "neon"), unet=lora(pipe.unet, branches=2)), name)
    routed = noise(pipe)
    pipe.set_styles({"ink": 1.0}, "a")
    assert torch.equal(noise(pipe), routed)
    pipe.set_styles({"ink": 1.0}, ["b"])
    assert not torch.allclose(noise(pipe), routed)


@pytest.mark.parametrize(
    ("styles", "words"),
    [
        ({"ink": 1.0, "oil": 0.5}, "oil: no adapter has a branch of this name.*expected a: ink, neon"),
        ({"ink": float("nan")}, "ink: a style's weight is a finite number"),
        ({}, r"no style is named.*set_styles\(None\)"),
    ],
)
def test_unknown_styles_and_weights_that_are_no_numbers_are_errors(
    styles: dict[str, float], words: str, sd: Make, lora: Make, adapter: Make, noise: Make
) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(("ink", "neon"), unet=lora(pipe.unet, branches=2)), "a")
    routed = noise(pipe)
    with pytest.raises(UsageError, match=words):
        pipe.set_styles(styles)
    assert torch.equal(noise(pipe), routed)


def test_without_named_branches_there_is_nothing_to_choose(sd: Make, lora: Make, adapter: Make) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)))
    with pytest.raises(UsageError, match="expected adapters with named branches"):
        pipe.set_styles({"ink": 1.0})


def test_a_refused_mixture_leaves_every_adapter_as_it_was(sd: Make, lora: Make, adapter: Make, noise: Make) -> None:
    pipe = sd()
    for name in ("a", "b"):
        pipe.load_styleinject_weights(adapter(("ink", "neon"), unet=lora(pipe.unet, branches=2)), name)
    pipe.set_styleinject_adapters(["a", "b"])
    pipe.fuse_styleinject(adapter_names="b")
    before = noise(pipe)
    with pytest.raises(UsageError, match="b: a fused adapter's styles are fixed"):
        pipe.set_styles({"ink": 1.0})
    assert torch.equal(noise(pipe), before)
    assert {state.styles for state in tuner.adapters(pipe.unet).values()} == {None}


def test_a_weight_that_is_no_number_changes_nothing(sd: Make, lora: Make, adapter: Make, noise: Make) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(("ink", "neon"), unet=lora(pipe.unet, branches=2)), "a")
    before = noise(pipe)
    with pytest.raises(ValueError, match="strong"):
        tuner.set_styles(pipe.unet, {"ink": "strong"})  # type: ignore[dict-item]
    assert tuner.adapters(pipe.unet)["a"].styles is None
    assert torch.equal(noise(pipe), before)
