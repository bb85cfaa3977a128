"""A core in its down matrix, or as square as some read it: what reads pairs alone is given one that does the same."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from si_hub.adapter import Layer
from si_hub.converters.dense import as_double
from si_hub.storage.tensors import DTYPE_SIZES, Tensor

if TYPE_CHECKING:
    import torch


def multiply_core(core: Tensor, down: Tensor) -> torch.Tensor:
    """core ∘ down, float64: what core ``[m, q, *kernel]`` makes of down ``[q, in]`` is one kernel ``[m, in, *kernel]``.

    Exact whatever the stride, padding, padding mode and dilation are: they belong to the core, and down, which is 1×1
    and has no bias, leaves zeros and copies of numbers what they are.
    """
    import torch

    return torch.einsum("mq...,qi->mi...", as_double(core), as_double(down).flatten(1))


def fold_core(layer: Layer) -> Layer:
    """A layer with its core in ``down.weight``, computed when it is read, float32; one without a core as it is."""
    core = layer.tensors.get("core.weight")
    if core is None:
        return layer
    down = layer.tensors["down.weight"]
    shape = (core.shape[0], down.shape[1], *core.shape[2:])
    rest = {leaf: tensor for leaf, tensor in layer.tensors.items() if leaf != "core.weight"}
    return replace(layer, tensors=rest | {"down.weight": Tensor.compute(shape, lambda: multiply_core(core, down))})


def square_core(layer: Layer) -> Layer:
    """A layer whose core takes as many inputs as it has outputs, zeros beside what it had; the scale is as it was.

    Of one branch. Nothing is read; numbers keep their dtypes.
    """
    core, down, up = (layer.tensors[leaf] for leaf in ("core.weight", "down.weight", "up.weight"))
    rank, taken = core.shape[:2]
    size = max(rank, taken)
    kernel = core.shape[2:]
    rows = [_lengthen(core.rows(k, k + 1).reshape(taken, *kernel), size) for k in range(rank)]
    wide = Tensor.concatenate(rows).reshape(rank, size, *kernel)
    tensors = {**layer.tensors, "core.weight": _lengthen(wide, size), "down.weight": _lengthen(down, size)}
    if rank < size:
        columns = [_lengthen(up.rows(k, k + 1).reshape(rank), size) for k in range(up.shape[0])]
        tensors["up.weight"] = Tensor.concatenate(columns).reshape(up.shape[0], size)
    alpha = None if layer.alpha is None else layer.alpha * size / rank
    return replace(layer, tensors=tensors, alpha=alpha)


def _lengthen(tensor: Tensor, rows: int) -> Tensor:
    """A tensor with so many rows, zeros behind what it has."""
    missing = (rows - tensor.shape[0], *tensor.shape[1:])
    if not missing[0]:
        return tensor
    zeros = Tensor.from_bytes(tensor.dtype, missing, bytes(math.prod(missing) * DTYPE_SIZES[tensor.dtype]))
    return Tensor.concatenate([tensor, zeros])
