"""LoKr: ΔW = scale · w1 ⊗ w2, each whole or of two factors, w2 with or without a Tucker core (arXiv 2212.10650)."""

from __future__ import annotations

import math

from si_hub.converters.families.contract import NOT_YET, Family, Slots, SourceModule, Target
from si_hub.converters.families.shapes import Size, check_matrix
from si_hub.converters.naming.suffixes import spell

LOKR_FACTORS = "lokr_w1 lokr_w1_a lokr_w1_b lokr_w2 lokr_w2_a lokr_w2_b lokr_t2"


def check(module: SourceModule, target: Target) -> None:
    """Raise BaseMismatch where the Kronecker product is not for the base module."""
    check_matrix(module, target, *lokr_size(module))


def lokr_size(module: SourceModule) -> tuple[Size | None, Size | None]:
    """Rows and columns of the Kronecker product, as far as shapes say them."""
    left, right = _factor(module, "lokr_w1"), _factor(module, "lokr_w2")
    if left is None or right is None:
        return None, None
    slot = next(name for name in module.tensors if name.startswith("lokr_w2"))
    return (slot, left[0] * right[0]), (slot, left[1] * right[1])


def _factor(module: SourceModule, name: str) -> tuple[int, int] | None:
    """Rows and columns of one factor, its kernel laid flat."""
    shapes = {part: tensor.shape for part, tensor in module.tensors.items() if part.startswith(name)}
    if name in shapes:
        whole = shapes[name]
        return (whole[0], math.prod(whole[1:])) if len(whole) > 1 else None
    first, second = shapes.get(f"{name}_a", ()), shapes.get(f"{name}_b", ())
    if len(first) < 2 or len(second) < 2:
        return None
    core = module.tensors.get("lokr_t2") if name == "lokr_w2" else None
    if core is not None:
        return first[1], second[1] * math.prod(core.shape[2:])
    return first[0], math.prod(second[1:])


FAMILY = Family(
    "lokr", "LoKr", Slots.of(has_any=LOKR_FACTORS, may="alpha diff_b"), check,
    spell("lycoris", named=True, **{slot: f".{slot}" for slot in LOKR_FACTORS.split()}), reason=NOT_YET,
)  # fmt: skip
