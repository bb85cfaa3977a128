"""LoCon with a Tucker core: ΔW[o, i, …] = alpha / rank · Σ up[o, m] mid[m, n, …] down[n, i]."""

from __future__ import annotations

import math

from si_hub.converters.families.contract import NOT_YET, Family, Slots, SourceModule, Target
from si_hub.converters.families.shapes import Size, check_matrix, size_of
from si_hub.converters.naming.suffixes import spell


def check(module: SourceModule, target: Target) -> None:
    """Raise BaseMismatch where up, mid ``[r, r, *kernel]`` and down ``[r, in, 1, 1]`` are not for the base module."""
    check_matrix(module, target, size_of(module, "up", 0), _columns(module))


def _columns(module: SourceModule) -> Size | None:
    width = size_of(module, "down", 1)
    return width and ("down", width[1] * math.prod(module.tensors["mid"].shape[2:]))


FAMILY = Family(
    "locon-tucker", "LoCon with a Tucker core", Slots.of("down mid up", may="alpha diff_b"), check,
    spell("kohya", mid=".lora_mid.weight"), reason=NOT_YET,
)  # fmt: skip
