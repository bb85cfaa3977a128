"""GLoRA: ΔW = alpha / rank · (W a1 a2 + b1 b2) (arXiv 2306.07967); old files have the factors' roles transposed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from si_hub.converters.dense import BaseModule, Difference, as_double
from si_hub.converters.families.contract import (
    Family,
    Lowered,
    Slots,
    SourceModule,
    Target,
    always,
    lower_whole,
    scale_of,
)
from si_hub.converters.families.shapes import check_matrix, size_of, unequal_factors
from si_hub.converters.naming.suffixes import spell
from si_hub.storage.tensors import Tensor

if TYPE_CHECKING:
    import torch


def check(module: SourceModule, target: Target) -> None:
    """Raise where the factors do not multiply or are not for the base module.

    New files have a1 [in, r], a2 [r, in], b1 [out, r] and b2 [r, in, *kernel]; old ones have a2 b2 in the place of
    a1 b1 and the reverse.

    Raises:
        LayerShapeError: they do not multiply.
        BaseMismatch: they do not fit.
    """
    (a, b), (c, d) = _roles(module)
    shapes = {slot: module.tensors[slot].shape for slot in (a, b, c, d)}
    flat = all(len(shapes[slot]) > 1 and math.prod(shapes[slot][2:]) == 1 for slot in (a, b, c))
    if not flat or len(shapes[d]) < 2 or shapes[a][1] != shapes[b][0]:
        raise unequal_factors(module, a, b)
    if shapes[c][1] != shapes[d][0]:
        raise unequal_factors(module, c, d)
    check_matrix(module, target, size_of(module, c, 0), (d, math.prod(shapes[d][1:])))
    for slot, axis in ((a, 0), (b, 1)):
        if shapes[slot][axis] != target.shape[1]:
            raise unequal_factors(module, a, b)


def _roles(module: SourceModule) -> tuple[tuple[str, str], tuple[str, str]]:
    """(left, right) of what multiplies W, and of what is added."""
    first, second = module.tensors["b1"].shape, module.tensors["b2"].shape
    # The rank is where it is small: [out, r] before [r, in], in old files after it.
    new = len(first) > 1 and len(second) > 1 and first[1] == second[0] and first[0] >= first[1]
    return (("a1", "a2"), ("b1", "b2")) if new else (("a2", "a1"), ("b2", "b1"))


def glora_rank(module: SourceModule) -> int:
    """The rank that alpha is divided by."""
    return module.tensors[_roles(module)[1][0]].shape[1]


def _matrix(module: SourceModule, slot: str) -> torch.Tensor:
    return as_double(module.tensors[slot]).flatten(1)


def differ(module: SourceModule, target: Target, own: BaseModule | None) -> Difference:
    """W a1 a2 along the input axis, and b1 b2, scaled."""
    assert own is not None, "it is a function of the base's weight"
    (a, b), (c, d) = _roles(module)

    def multiply() -> torch.Tensor:
        import torch

        mixed = torch.einsum("oi...,ij->oj...", own.weight(), _matrix(module, a) @ _matrix(module, b))
        added = (_matrix(module, c) @ _matrix(module, d)).reshape(target.shape)
        return (mixed + added) * scale_of(module, glora_rank(module))

    return Difference(multiply)


def lower(module: SourceModule, target: Target, own: BaseModule | None) -> Lowered:
    """[W a1, b1] times [a2; b2], a pair of twice the rank; with a kernel, which stands on W's side of it, whole."""
    assert own is not None, "it is a function of the base's weight"
    (a, b), (c, d) = _roles(module)
    rank = module.tensors[b].shape[0] + module.tensors[d].shape[0]
    if math.prod(target.shape[2:]) > 1 or rank * sum(target.shape[:2]) >= target.count:
        return lower_whole(differ(module, target, own), target)
    scale, down = scale_of(module, glora_rank(module)), (rank, *target.shape[1:])

    def join_columns() -> torch.Tensor:
        import torch

        mixed = own.single_weight().flatten(1) @ _matrix(module, a).float()
        return torch.cat([mixed, _matrix(module, c).float()], 1)

    def join_rows() -> torch.Tensor:
        import torch

        return (scale * torch.cat([_matrix(module, b), _matrix(module, d)])).reshape(down)

    return Lowered({
        "down.weight": Tensor.compute(down, join_rows),
        "up.weight": Tensor.compute((target.shape[0], rank), join_columns),
    })  # fmt: skip


FAMILY = Family(
    "glora", "GLoRA", Slots.of("a1 a2 b1 b2", may="alpha"), check, differ,
    spell("lycoris", a1=".a1.weight", a2=".a2.weight", b1=".b1.weight", b2=".b2.weight"),
    rank=glora_rank, lower=lower, needs_base=always,
)  # fmt: skip
