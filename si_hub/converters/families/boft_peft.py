"""BOFT of PEFT: W' = s · W R, with butterflies of block rotations on the input axis (arXiv 2311.06243)."""

from __future__ import annotations

import math

from si_hub.converters.families.contract import NEEDS_BASE, Family, Slots, SourceModule, Target
from si_hub.converters.families.shapes import check_matrix
from si_hub.converters.naming.suffixes import spell


def check(module: SourceModule, target: Target) -> None:
    """Raise BaseMismatch where blocks ``m, n, b, b`` do not cover the base module's inputs: n · b = in · kernel."""
    check_matrix(module, target, None, ("boft_r", math.prod(module.tensors["boft_r"].shape[-3:-1])))


FAMILY = Family(
    "boft-peft", "BOFT of PEFT", Slots.of("boft_r", may="boft_s"), check,
    spell("peft", named=True, boft_r=".boft_R", boft_s=".boft_s"), needs_base=True, reason=NEEDS_BASE,
)  # fmt: skip
