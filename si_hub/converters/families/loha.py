"""LoHa: ΔW = alpha / rank · (w1_a w1_b) ⊙ (w2_a w2_b), with or without Tucker cores (arXiv 2108.06098)."""

from __future__ import annotations

import math

from si_hub.converters.families.contract import NOT_YET, Family, Slots, SourceModule, Target
from si_hub.converters.families.shapes import Size, check_matrix, size_of
from si_hub.converters.naming.suffixes import spell

LOHA_FACTORS = "hada_w1_a hada_w1_b hada_w2_a hada_w2_b"
CORES = "hada_t1 hada_t2"


def check(module: SourceModule, target: Target) -> None:
    """Raise BaseMismatch where the factors are not for the base module.

    Plain: ``w_a`` [out, r], ``w_b`` [r, in · kernel]. With a core [r, r, *kernel]: ``w_a`` [r, out], ``w_b`` [r, in].
    """
    check_matrix(module, target, *loha_size(module))


def loha_size(module: SourceModule) -> tuple[Size | None, Size | None]:
    """Rows and columns of the product, as far as shapes say them."""
    core = module.tensors.get("hada_t1")
    rows, columns = size_of(module, "hada_w1_a", 0 if core is None else 1), size_of(module, "hada_w1_b", 1)
    if core is not None and columns:
        columns = (columns[0], columns[1] * math.prod(core.shape[2:]))
    return rows, columns


FAMILY = Family(
    "loha", "LoHa", Slots.of(LOHA_FACTORS, may=f"{CORES} alpha diff_b"), check,
    spell("lycoris", named=True, **{slot: f".{slot}" for slot in f"{LOHA_FACTORS} {CORES}".split()}), reason=NOT_YET,
)  # fmt: skip
