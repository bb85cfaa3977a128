"""BOFT of PEFT: W' = s · W R, with butterflies of block rotations on the input axis (arXiv 2311.06243)."""

from __future__ import annotations

import math

from si_hub.converters.dense import BaseModule, Difference
from si_hub.converters.families.by_peft import differ_by_peft
from si_hub.converters.families.contract import Family, Slots, SourceModule, Target, always
from si_hub.converters.families.shapes import check_matrix
from si_hub.converters.naming.suffixes import spell


def check(module: SourceModule, target: Target) -> None:
    """Raise BaseMismatch where blocks ``m, n, b, b`` do not cover the base module's inputs: n · b = in · kernel."""
    check_matrix(module, target, None, ("boft_r", math.prod(module.tensors["boft_r"].shape[-3:-1])))


def differ(module: SourceModule, target: Target, own: BaseModule | None) -> Difference:
    """The weight turned and scaled by PEFT's own layer, less the weight."""
    assert own is not None, "it is a function of the base's weight"
    return differ_by_peft(module, target, own, "BOFT", {"boft_r": (".boft_R",), "boft_s": (".boft_s",)})


FAMILY = Family(
    "boft-peft", "BOFT of PEFT", Slots.of("boft_r", may="boft_s"), check, differ,
    spell("peft", named=True, boft_r=".boft_R", boft_s=".boft_s"), needs_base=always,
)  # fmt: skip
