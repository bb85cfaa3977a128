"""A core in its down matrix: what reads pairs alone is given a pair that does the same."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from si_hub.adapter import Layer
from si_hub.converters.dense import as_double
from si_hub.storage.tensors import Tensor

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
