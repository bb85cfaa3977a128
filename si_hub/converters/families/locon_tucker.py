"""LoCon with a Tucker core: ΔW[o, i, …] = alpha / rank · Σ up[o, m] mid[m, n, …] down[n, i]. Bytes as they are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from si_hub.converters.dense import BaseModule, Difference, as_double
from si_hub.converters.families.contract import Family, Lowered, Slots, SourceModule, Target, scale_of
from si_hub.converters.families.shapes import (
    Size,
    bias_delta,
    bias_difference,
    check_bias,
    check_matrix,
    reshape,
    size_of,
    unequal_ranks,
)
from si_hub.converters.folding import multiply_core
from si_hub.converters.naming.suffixes import spell

if TYPE_CHECKING:
    import torch


def check(module: SourceModule, target: Target) -> None:
    """Raise where up, mid ``[r, r, *kernel]`` and down ``[r, in, 1, 1]`` are not for the base module.

    Raises:
        LayerShapeError: they do not multiply.
        BaseMismatch: they do not fit.
    """
    core_rank(module)
    check_matrix(module, target, size_of(module, "up", 0), _columns(module))
    if "diff_b" in module.tensors:
        check_bias(module, "diff_b", target)


def _columns(module: SourceModule) -> Size | None:
    width = size_of(module, "down", 1)
    return width and ("down", width[1] * math.prod(module.tensors["mid"].shape[2:]))


def core_rank(module: SourceModule) -> int:
    """The rank of up, which alpha is divided by; LayerShapeError where up, mid and down do not multiply."""
    up, mid, down = (module.tensors[slot].shape for slot in ("up", "mid", "down"))
    flat = all(len(shape) > 1 and math.prod(shape[2:]) == 1 for shape in (up, down))
    if not (flat and len(mid) > 1 and up[1] == mid[0] and mid[1] == down[0]):
        raise unequal_ranks(module)
    return up[1]


def differ(module: SourceModule, target: Target, own: BaseModule | None = None) -> Difference:
    """up times the core times down, scaled."""

    def multiply() -> torch.Tensor:
        up = as_double(module.tensors["up"]).flatten(1)
        product = up @ multiply_core(module.tensors["mid"], module.tensors["down"]).flatten(1)
        return product.reshape(target.shape) * scale_of(module, up.shape[1])

    return Difference(multiply, bias_difference(module, "diff_b"))


def lower(module: SourceModule, target: Target, own: BaseModule | None = None) -> Lowered:
    """The same tensors as the format's leaves."""
    up, mid, down = (module.tensors[slot] for slot in ("up", "mid", "down"))
    kernel = target.shape[2:]
    leaves = {
        "down.weight": reshape(down, (*down.shape[:2], *(1 for _ in kernel))),
        "core.weight": reshape(mid, (*mid.shape[:2], *kernel)),
        "up.weight": reshape(up, up.shape[:2]),
    }
    if "diff_b" in module.tensors:
        leaves["bias_delta"] = bias_delta(module, "diff_b", target)
    return Lowered(leaves, module.alpha)


FAMILY = Family(
    "locon-tucker", "LoCon with a Tucker core", Slots.of("down mid up", may="alpha diff_b"), check, differ,
    spell("kohya", mid=".lora_mid.weight"), rank=core_rank, lower=lower,
)  # fmt: skip
