"""An adapter that is the same for every input: of one branch, and with nothing but sums in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy

from si_hub.adapter import Adapter, Component, Layer
from si_hub.converters.numbers import as_float64
from si_hub.errors import ConversionRefused, UsageError
from si_hub.storage.tensors import Tensor
from si_hub.words import option


def steady(adapter: Adapter, styles: Mapping[str, float] | None = None) -> Adapter:
    """The adapter with its branches mixed to one.

    Args:
        styles: weights by branch name, used as given; those of fixed routers where none are given.

    Raises:
        UsageError: a style that the adapter has not.
        ConversionRefused: a router that chooses by the input, or an injection that depends on the features.
    """
    if styles and (unknown := sorted(set(styles) - set(adapter.branches))):
        raise UsageError(
            "the adapter has no such style", key=", ".join(unknown), found=", ".join(adapter.branches) or "none"
        )
    weights = [styles.get(name, 0.0) for name in adapter.branches] if styles else None
    components = {
        name: Component(
            component.class_name,
            {path: _steady_layer(f"{name}.{path}", layer, weights) for path, layer in component.layers.items()},
            component.embeddings,
        )
        for name, component in adapter.components.items()
    }
    return replace(adapter, components=components, branches=())


def _steady_layer(key: str, layer: Layer, weights: list[float] | None) -> Layer:
    if layer.transform != "add" and layer.rank:
        raise ConversionRefused(
            "its injection depends on the features, which no other format can say", key=key, expected="transform add",
            found=layer.transform, hint="Share the StyleInject file itself, or distill it",
        )  # fmt: skip
    if layer.branches < 2:
        return layer
    if weights is None:
        if "router.weight" in layer.tensors:
            raise ConversionRefused(
                "its router chooses styles by the input, which no other format can say", key=key,
                hint=f"Say which styles it is to have: {option('styles')}",
            )  # fmt: skip
        logits = as_float64(layer.tensors["router.bias"])
        powers = numpy.exp(logits - logits.max())
        weights = list(powers / powers.sum())
    # Cores are what branches have of their own, where there are some.
    branched = "core.weight" if "core.weight" in layer.tensors else "down.weight"
    tensors = {leaf: tensor for leaf, tensor in layer.tensors.items() if not leaf.startswith("router.")}
    return replace(layer, tensors=tensors | {branched: _mix(layer.tensors[branched], weights)})


def _mix(down: Tensor, weights: list[float]) -> Tensor:
    """Σ_i s_i A_i, or of cores; a branch alone at weight 1 keeps its bytes."""
    rank = down.shape[0] // len(weights)
    if sorted(weights)[:-1] == [0.0] * (len(weights) - 1) and max(weights) == 1.0:
        at = weights.index(1.0)
        return down.rows(at * rank, (at + 1) * rank)
    branches = as_float64(down).reshape(len(weights), -1)
    mixed = numpy.array(weights, dtype=numpy.float64) @ branches
    assert math.prod(down.shape) == branches.size
    return Tensor.from_numpy(mixed.astype(numpy.float32).reshape(rank, *down.shape[1:]))
