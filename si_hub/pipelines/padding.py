"""Leveling ranks, so that any adapter can take another's place in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from si_hub.adapter import Component, Layer
from si_hub.converters.folding import fold_core
from si_hub.errors import UsageError
from si_hub.pipelines import registry
from si_hub.storage.tensors import Tensor
from si_hub.tuner.leaves import check_held

#: Numbers that padding may always take: 256 MB in float32.
ALWAYS_PADDED = 64 << 20
_RANK = "styleinject_hotswap_rank"


def enable_padding(pipeline: Any, target_rank: int) -> None:
    """Pad every adapter that is loaded from now on to one rank, so that any two of them can be swapped.

    Raises:
        UsageError: an adapter is loaded already, or the rank is not positive.
    """
    if target_rank < 1:
        raise UsageError("a rank is at least 1", key="target_rank", found=target_rank)
    if loaded := list(registry.by_name(pipeline)):
        raise UsageError(
            "adapters are loaded already",
            found=", ".join(loaded),
            hint="Call enable_styleinject_hotswap() first, then load, then compile",
        )
    for model in registry.models(pipeline).values():
        model.__dict__[_RANK] = target_rank


def pad(model: nn.Module, content: Component, component: str = "model") -> Component:
    """``content`` padded to the model's hotswap rank with zeros, its scale multiplied into ``up``; or as it is.

    Raises:
        UsageError: a layer of a higher rank, or more numbers padded than the model itself has.
        NumberOverflow: a scale that the tensors' dtype cannot hold.
    """
    rank = model.__dict__.get(_RANK)
    if rank is None:
        return content
    # Of pairs that are to take one another's place, each is given the same tensors.
    content = replace(content, layers={path: fold_core(layer) for path, layer in content.layers.items()})
    _check_room(model, content, rank, component)
    layers = {path: _pad_layer(layer, rank, f"{component}.{path}") for path, layer in content.layers.items()}
    return replace(content, layers=layers)


def _check_room(model: nn.Module, content: Component, rank: int, component: str) -> None:
    """Sums before memory: a small file of many branches or wide layers takes hundreds of times its size, padded."""
    pairs = [layer for layer in content.layers.values() if layer.rank]
    own = sum(layer.tensors[leaf].count for layer in pairs for leaf in _PAIR)
    padded = sum(rank * sum(layer.tensors[leaf].count // layer.rank for leaf in _PAIR) for layer in pairs)
    room = max(own, ALWAYS_PADDED, sum(parameter.numel() for parameter in model.parameters()))
    if padded > room:
        raise UsageError(
            f"padded to rank {rank} the adapter has more numbers than the model", key=component,
            expected=f"at most {room}", found=padded, hint="Lower target_rank=",
        )  # fmt: skip


_PAIR = ("down.weight", "up.weight")


def _pad_layer(layer: Layer, rank: int, key: str) -> Layer:
    if not layer.rank:
        return layer
    if layer.rank > rank or layer.groups > 1:
        raise UsageError(
            "the layer cannot be padded to the rank that hotswapping was enabled for",
            key=key,
            expected=f"at most {rank}, no groups",
            found=f"rank {layer.rank}, {layer.groups} groups",
            hint="enable_styleinject_hotswap(target_rank=…) takes the highest rank of all adapters",
        )
    down, up = layer.tensors["down.weight"].torch(), layer.tensors["up.weight"].torch()
    if layer.scale != 1.0:
        scaled = up * layer.scale
        check_held(up, scaled, f"{key}.up.weight")
        up = scaled
    wide_down = down.new_zeros(layer.branches, rank, *down.shape[1:])
    wide_down[:, : layer.rank] = down.reshape(layer.branches, layer.rank, *down.shape[1:])
    wide_up = up.new_zeros(up.shape[0], rank)
    wide_up[:, : layer.rank] = up
    tensors = {
        **layer.tensors,
        "down.weight": Tensor.from_torch(wide_down.flatten(0, 1)),
        "up.weight": Tensor.from_torch(wide_up),
    }
    return replace(layer, tensors=tensors, alpha=None)
