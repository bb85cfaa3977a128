"""OFT of PEFT: W' = W R, with block rotations on the input axis, stored as their upper triangles."""

from __future__ import annotations

import math

from si_hub.converters.families.contract import NEEDS_BASE, Family, Slots, SourceModule, Target
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


FAMILY = Family(
    "oft-peft", "OFT of PEFT", Slots.of("oft_r"), check,
    spell("peft", named=True, oft_r=".oft_R .oft_R.weight"), needs_base=True, reason=NEEDS_BASE,
)  # fmt: skip
