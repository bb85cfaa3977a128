"""Leveling ranks, so that any adapter can take another's place in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from si_hub.adapter import Component, Layer
from si_hub.converters.folding import fold_core
from si_hub.errors import UsageError
from si_hub.pipelines import registry
from si_hub.storage.tensors import Tensor
from si_hub.tuner.injection import live_path
from si_hub.tuner.layer import CHILD
from si_hub.tuner.leaves import check_held

#: Numbers that padding may always take: 256 MB in float32.
ALWAYS_PADDED = 64 << 20
_RANK, _TARGETS = "styleinject_hotswap_rank", "styleinject_hotswap_targets"


def enable_padding(pipeline: Any, target_rank: int, targets: Sequence[str] = ()) -> None:
    """Pad every adapter that is loaded from now on to one rank, so that any two of them can be swapped.

    Args:
        pipeline: with no adapter loaded.
        target_rank: the rank of all their layers.
        targets: ends of the paths of modules that get a layer too where an adapter has none, a layer of zeros.

    Raises:
        UsageError: an adapter is loaded already, the rank is not positive, or a target that no model has.
    """
    targets = [targets] if isinstance(targets, str) else list(targets)
    if target_rank < 1:
        raise UsageError("a rank is at least 1", key="target_rank", found=target_rank)
    if loaded := list(registry.by_name(pipeline)):
        raise UsageError(
            "adapters are loaded already",
            found=", ".join(loaded),
            hint="Call enable_styleinject_hotswap() first, then load, then compile",
        )
    models = registry.models(pipeline)
    for target in targets:
        if not any(_find_targets(model, [target]) for model in models.values()):
            raise UsageError("no linear layer or convolution has a path that ends so", key="targets", found=target)
    for model in models.values():
        model.__dict__[_RANK] = target_rank
        model.__dict__[_TARGETS] = targets


def is_padded(model: nn.Module) -> bool:
    """Whether adapters of this model are padded to one rank."""
    return _RANK in model.__dict__


def pad(model: nn.Module, content: Component, component: str = "model") -> Component:
    """``content`` padded to the model's hotswap rank with zeros, its scale multiplied into ``up``; or as it is.

    Raises:
        UsageError: a layer of a higher rank, more numbers padded than the model itself has, or targets to fill for an
            adapter of another transform than ``add``.
        NumberOverflow: a scale that the tensors' dtype cannot hold.
    """
    rank = model.__dict__.get(_RANK)
    if rank is None:
        return content
    # Of pairs that are to take one another's place, each is given the same tensors.
    content = replace(content, layers={path: fold_core(layer) for path, layer in content.layers.items()})
    content = replace(content, layers={**content.layers, **_fill_targets(model, content)})
    _check_room(model, content, rank, component)
    layers = {path: _pad_layer(layer, rank, f"{component}.{path}") for path, layer in content.layers.items()}
    return replace(content, layers=layers)


def _find_targets(model: nn.Module, targets: Sequence[str]) -> dict[str, nn.Linear | nn.Conv2d]:
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and any(path == target or path.endswith(f".{target}") for target in targets)
        and CHILD not in path.split(".")
    }


def _fill_targets(model: nn.Module, content: Component) -> dict[str, Layer]:
    """Layers of zeros for the targets that the adapter does not have, with the leaves of a layer that it has."""
    pairs = [layer for layer in content.layers.values() if layer.rank]
    found = _find_targets(model, model.__dict__.get(_TARGETS, ()))
    if not pairs or not found:
        return {}
    pattern, modules = max(pairs, key=lambda layer: len(layer.tensors)), dict(model.named_modules())
    present = {live_path(modules, path) for path in content.layers}
    if pattern.transform != "add":
        raise UsageError("only layers of transform add are silent as zeros", key="targets", found=pattern.transform)
    return {path: _make_silent(module, pattern) for path, module in found.items() if path not in present}


def _make_silent(module: nn.Linear | nn.Conv2d, pattern: Layer) -> Layer:
    weight, n = module.weight, pattern.branches
    shapes: dict[str, tuple[int, ...]] = {
        "down.weight": (n, *weight.shape[1:]), "up.weight": (weight.shape[0], 1),
        "router.weight": (n, weight.shape[1]), "router.bias": (n,),
    }  # fmt: skip
    dtype = pattern.tensors["down.weight"].torch().dtype
    tensors = {
        leaf: Tensor.from_torch(torch.zeros(shape, dtype=dtype))
        for leaf, shape in shapes.items()
        if leaf in pattern.tensors
    }
    return replace(pattern, tensors=tensors, alpha=None)


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
