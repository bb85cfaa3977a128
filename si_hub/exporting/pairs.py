"""Layers as plain pairs, exactly, for formats that have nothing else."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from si_hub.adapter import Layer
from si_hub.converters.dense import as_double
from si_hub.storage.tensors import DTYPE_SIZES, Tensor

if TYPE_CHECKING:
    import torch


def expand_product(layer: Layer) -> Layer:
    """A Kronecker product with a pair on its right as one pair, where that is smaller than the dense difference.

    C ⊗ (u d) is (C ⊗ u)(1 ⊗ d), or (1 ⊗ u)(C ⊗ d) where C has fewer rows than columns.
    """
    leaves = layer.tensors
    if "kron" not in leaves or not layer.rank:
        return layer
    left, up, down = leaves["kron"], leaves["up.weight"], leaves["down.weight"]
    rows, columns = left.shape
    rank = min(rows, columns) * layer.rank
    out, into = rows * up.shape[0], columns * down.shape[1]
    width = into * math.prod(down.shape[2:])
    if rank * (out + width) >= out * width:
        return layer
    tall = columns <= rows

    def multiply(factor: Tensor, with_left: bool) -> torch.Tensor:
        import torch

        size = columns if tall else rows
        first = as_double(left) if with_left else torch.eye(size, dtype=torch.float64)
        return torch.kron(first, as_double(factor).flatten(1))

    shape = (rank, into, *down.shape[2:])
    # Behind each of the left factor's columns lie the inputs of the right one with their kernel.
    pair = {
        "up.weight": Tensor.compute((out, rank), lambda: multiply(up, tall)),
        "down.weight": Tensor.compute(shape, lambda: multiply(down, not tall).reshape(shape)),
    }
    rest = {leaf: tensor for leaf, tensor in leaves.items() if leaf not in {"kron", *pair}}
    return replace(layer, tensors=rest | pair, alpha=layer.scale * rank)


def carry_bias(layer: Layer, shape: tuple[int, ...]) -> Layer:
    """A change of the bias alone beside a pair of zeros, for formats whose biases are those of pairs.

    Args:
        shape: of the base's weight, a linear layer's or a convolution's.
    """
    if layer.tensors.keys() != {"bias_delta"} or len(shape) < 2:
        return layer
    dtype = layer.tensors["bias_delta"].dtype
    sizes = {"down.weight": (1, *shape[1:]), "up.weight": (shape[0], 1)}
    zeros = {leaf: _zeros(dtype, size) for leaf, size in sizes.items()}
    return Layer({**layer.tensors, **zeros})


def fill_biases(slots: dict[str, dict[str, Tensor]]) -> None:
    """Give every pair a bias of zeros where any of them has one: PEFT's ``lora_bias`` is of all modules or of none."""
    if not any("up_bias" in one for one in slots.values()):
        return
    for one in slots.values():
        if "up_bias" not in one:
            one["up_bias"] = _zeros(one["up"].dtype, one["up"].shape[:1])


def _zeros(dtype: str, shape: tuple[int, ...]) -> Tensor:
    return Tensor.from_bytes(dtype, shape, bytes(DTYPE_SIZES[dtype] * math.prod(shape)))
