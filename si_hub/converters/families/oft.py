"""OFT and BOFT of LyCORIS and kohya: W' = R W, with block-diagonal rotations on the output axis (arXiv 2306.07280)."""

from __future__ import annotations

import math

from si_hub.converters.families.contract import NEEDS_BASE, Family, Slots, SourceModule, Target
from si_hub.converters.families.shapes import check_matrix
from si_hub.converters.naming.suffixes import spell

_NUMBERED = "oft_blocks_0 oft_blocks_1 oft_blocks_2 oft_blocks_3"


def check(module: SourceModule, target: Target) -> None:
    """Raise BaseMismatch where blocks ``(m,) n, b, b`` do not cover the outputs of the base module: n · b = out.

    kohya's numbered blocks each cover one part of a fused module.
    """
    rows = [math.prod(tensor.shape[-3:-1]) for slot, tensor in module.tensors.items() if slot.startswith("oft_")]
    check_matrix(module, target, (next(iter(module.names)), sum(rows)), None)


FAMILY = Family(
    "oft", "OFT or BOFT of LyCORIS or kohya",
    Slots.of(has_any=f"oft_blocks {_NUMBERED} oft_diag", may="rescale alpha"), check,
    spell("lycoris", oft_blocks=".oft_blocks", oft_diag=".oft_diag", rescale=".rescale")
    # kohya's OFT of Flux numbers the blocks of a fused layer.
    | spell("kohya", oft_blocks_0=".oft_blocks.0", oft_blocks_1=".oft_blocks.1", oft_blocks_2=".oft_blocks.2",
            oft_blocks_3=".oft_blocks.3"),
    needs_base=True, reason=NEEDS_BASE,
)  # fmt: skip
