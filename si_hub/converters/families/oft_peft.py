"""OFT of PEFT: W' = W R, with block rotations on the input axis, stored as their upper triangles.

It is PEFT's merge that is meant: its forward of a convolution adds up overlapping patches, which is no weight's change.
"""

from __future__ import annotations

import math

from si_hub.converters.dense import BaseModule, Difference
from si_hub.converters.families.by_peft import differ_by_peft
from si_hub.converters.families.contract import Family, Slots, SourceModule, Target, always
from si_hub.converters.families.shapes import check_matrix
from si_hub.converters.naming.suffixes import spell

_NAMES = {"oft_r": (".oft_R.weight",), "oft_embedding_r": (".oft_embedding_R.weight",)}


def check(module: SourceModule, target: Target) -> None:
    """Raise BaseMismatch where ``n`` triangles of ``b (b - 1) / 2`` do not cover the inputs: n · b = in · kernel.

    One triangle may be shared by all blocks, and then says nothing.
    """
    slot = _slot(module)
    blocks = module.tensors[slot].shape
    said = None
    if len(blocks) == 2 and blocks[0] != 1:
        said = slot, blocks[0] * ((1 + math.isqrt(1 + 8 * blocks[1])) // 2)
    check_matrix(module, target, None, said)


def _slot(module: SourceModule) -> str:
    return next(iter(_NAMES.keys() & module.tensors.keys()))


def differ(module: SourceModule, target: Target, own: BaseModule | None) -> Difference:
    """The weight turned by PEFT's own layer, less the weight."""
    assert own is not None, "it is a function of the base's weight"
    return differ_by_peft(module, target, own, "OFT", _NAMES)


FAMILY = Family(
    "oft-peft", "OFT of PEFT", Slots.of(has_any="oft_r oft_embedding_r"), check, differ,
    spell("peft", named=True, oft_r=".oft_R .oft_R.weight", oft_embedding_r=".oft_embedding_R.weight"),
    needs_base=always,
)  # fmt: skip
