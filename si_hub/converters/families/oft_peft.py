"""OFT of PEFT: W' = W R, with block rotations on the input axis, stored as their upper triangles."""

from __future__ import annotations

import math

from si_hub.converters.dense import BaseModule, Difference
from si_hub.converters.families.by_peft import differ_by_peft
from si_hub.converters.families.contract import Family, Slots, SourceModule, Target, always
from si_hub.converters.families.shapes import check_matrix
from si_hub.converters.naming.suffixes import spell


def check(module: SourceModule, target: Target) -> None:
    """Raise BaseMismatch where ``n`` triangles of ``b (b - 1) / 2`` do not cover the inputs: n · b = in · kernel.

    One triangle may be shared by all blocks, and then says nothing.
    """
    blocks = module.tensors["oft_r"].shape
    if len(blocks) != 2 or blocks[0] == 1:
        return
    side = (1 + math.isqrt(1 + 8 * blocks[1])) // 2
    check_matrix(module, target, None, ("oft_r", blocks[0] * side))


def differ(module: SourceModule, target: Target, own: BaseModule | None) -> Difference:
    """The weight turned by PEFT's own layer, less the weight."""
    assert own is not None, "it is a function of the base's weight"
    return differ_by_peft(module, target, own, "OFT", {"oft_r": "oft_R.{}.weight"})


FAMILY = Family(
    "oft-peft", "OFT of PEFT", Slots.of("oft_r"), check, differ,
    spell("peft", named=True, oft_r=".oft_R .oft_R.weight"), needs_base=always,
)  # fmt: skip
