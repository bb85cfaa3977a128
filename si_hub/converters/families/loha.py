"""LoHa: ΔW = alpha / rank · (w1_a w1_b) ⊙ (w2_a w2_b), with or without Tucker cores (arXiv 2108.06098)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from si_hub.converters.dense import BaseModule, Difference, as_double
from si_hub.converters.families.contract import Family, Lowered, Slots, SourceModule, Target, lower_whole, scale_of
from si_hub.converters.families.shapes import (
    Size,
    bias_delta,
    bias_difference,
    check_bias,
    check_matrix,
    size_of,
    unequal_factors,
)
from si_hub.converters.naming.suffixes import spell
from si_hub.storage.tensors import Tensor

if TYPE_CHECKING:
    import torch

LOHA_FACTORS = "hada_w1_a hada_w1_b hada_w2_a hada_w2_b"
CORES = "hada_t1 hada_t2"
#: w_a, w_b and core of each half.
_HALVES = (("hada_w1_a", "hada_w1_b", "hada_t1"), ("hada_w2_a", "hada_w2_b", "hada_t2"))


def check(module: SourceModule, target: Target) -> None:
    """Raise where the factors do not multiply or are not for the base module.

    Plain: ``w_a`` [out, r], ``w_b`` [r, in · kernel]. With a core [r, r, *kernel]: ``w_a`` [r, out], ``w_b`` [r, in].

    Raises:
        LayerShapeError: they do not multiply.
        BaseMismatch: they do not fit.
    """
    for half in _HALVES:
        _check_half(module, *half)
    for half in _HALVES:
        check_matrix(module, target, *_size(module, *half))
    if "diff_b" in module.tensors:
        check_bias(module, "diff_b", target)


def _check_half(module: SourceModule, a: str, b: str, core: str) -> None:
    w_a, w_b, t = module.tensors[a].shape, module.tensors[b].shape, module.tensors.get(core)
    if len(w_a) != 2 or len(w_b) != 2:
        raise unequal_factors(module, a, b)
    inner = (w_a[1], w_b[0]) if t is None else (w_a[0], w_b[0])
    if (t is None and inner[0] != inner[1]) or (t is not None and t.shape[:2] != inner):
        raise unequal_factors(module, a, b)


def _size(module: SourceModule, a: str, b: str, t: str) -> tuple[Size | None, Size | None]:
    """Rows and columns of one half, as far as shapes say them."""
    core = module.tensors.get(t)
    rows, columns = size_of(module, a, 0 if core is None else 1), size_of(module, b, 1)
    if core is not None and columns:
        columns = (columns[0], columns[1] * math.prod(core.shape[2:]))
    return rows, columns


def loha_rank(module: SourceModule) -> int:
    """Rows of ``w1_b``, which alpha is divided by."""
    return module.tensors["hada_w1_b"].shape[0]


def differ(module: SourceModule, target: Target, own: BaseModule | None = None) -> Difference:
    """The product of both halves, element by element, scaled."""

    def multiply() -> torch.Tensor:
        first, second = (a @ b.flatten(1) for a, b in (_halve(module, *half) for half in _HALVES))
        return (first * second).reshape(target.shape) * scale_of(module, loha_rank(module))

    return Difference(multiply, bias_difference(module, "diff_b"))


def _halve(module: SourceModule, a: str, b: str, core: str) -> tuple[torch.Tensor, torch.Tensor]:
    """One half as a pair ``[out, r]`` and ``[r, in, *kernel]`` or ``[r, in · kernel]``, float64."""
    import torch

    first, second = as_double(module.tensors[a]), as_double(module.tensors[b])
    if core not in module.tensors:
        return first, second
    return first.T, torch.einsum("ij...,jr->ir...", as_double(module.tensors[core]), second)


def lower(module: SourceModule, target: Target, own: BaseModule | None = None) -> Lowered:
    """A pair of rank r1 · r2, of the products of columns and rows of both halves, or whole where that is smaller.

    Σ_p a[o, p] b[p, i] · Σ_q c[o, q] d[q, i] = Σ_pq (a[o, p] c[o, q]) (b[p, i] d[q, i]); alpha / rank goes into down.
    """
    rank = loha_rank(module) * module.tensors["hada_w2_b"].shape[0]
    depthwise = len(target.shape) > 2 and target.shape[1] == 1
    if depthwise or rank * (target.shape[0] + math.prod(target.shape[1:])) >= target.count:
        return lower_whole(differ(module, target), target)
    scale, down = scale_of(module, loha_rank(module)), (rank, *target.shape[1:])

    def multiply_columns() -> torch.Tensor:
        first, second = (_halve(module, *half)[0] for half in _HALVES)
        return (first[:, :, None] * second[:, None, :]).flatten(1)

    def multiply_rows() -> torch.Tensor:
        first, second = (_halve(module, *half)[1].flatten(1) for half in _HALVES)
        return (scale * first[:, None, :] * second[None, :, :]).reshape(down)

    leaves = {
        "down.weight": Tensor.compute(down, multiply_rows),
        "up.weight": Tensor.compute((target.shape[0], rank), multiply_columns),
    }
    if "diff_b" in module.tensors:
        leaves["bias_delta"] = bias_delta(module, "diff_b", target)
    return Lowered(leaves)


FAMILY = Family(
    "loha", "LoHa", Slots.of(LOHA_FACTORS, may=f"{CORES} alpha diff_b"), check, differ,
    spell("lycoris", named=True, **{slot: f".{slot}" for slot in f"{LOHA_FACTORS} {CORES}".split()}),
    rank=loha_rank, lower=lower,
)  # fmt: skip
