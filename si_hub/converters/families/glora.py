"""GLoRA: ΔW = W a1 a2 + b1 b2 (arXiv 2306.07967); old files have the factors' roles transposed."""

from __future__ import annotations

from si_hub.converters.families.contract import NEEDS_BASE, Family, Slots, SourceModule, Target
from si_hub.converters.families.shapes import check_matrix, size_of
from si_hub.converters.naming.suffixes import spell


def check(module: SourceModule, target: Target) -> None:
    """Raise BaseMismatch where b1 and b2 are not for the base module.

    New files have b1 [out, r] and b2 [r, in], old ones b1 [r, in] and b2 [out, r].
    """
    b1, b2 = module.tensors["b1"].shape, module.tensors["b2"].shape
    new = len(b1) > 1 and len(b2) > 1 and b1[1] == b2[0]
    check_matrix(module, target, size_of(module, "b1" if new else "b2", 0), None)


FAMILY = Family(
    "glora", "GLoRA", Slots.of("a1 a2 b1 b2", may="alpha bm"), check,
    spell("lycoris", a1=".a1.weight", a2=".a2.weight", b1=".b1.weight", b2=".b2.weight", bm=".bm.weight"),
    needs_base=True, reason=NEEDS_BASE,
)  # fmt: skip
