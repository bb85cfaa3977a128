"""Control LoRAs that replace weights: ComfyUI's ``set_weight``, and Black Forest Labs' norms beside their pairs."""

from __future__ import annotations

from si_hub.converters.families.contract import NEEDS_BASE, Family, Slots, SourceModule, Target
from si_hub.converters.families.shapes import check_matrix, size_of
from si_hub.converters.naming.suffixes import spell


def check(module: SourceModule, target: Target) -> None:
    """Raise BaseMismatch where a pair has other outputs than the base module; inputs may be more than the base's."""
    if "up" in module.tensors:
        check_matrix(module, target, size_of(module, "up", 0), None)


FAMILY = Family(
    "set", "control LoRA that replaces weights",
    Slots.of(has_any="set_weight reshape", may="down up alpha diff_b"), check,
    spell("comfy", set_weight=".set_weight", reshape=".reshape_weight") | spell("bfl", set_weight=".scale"),
    needs_base=True, reason=NEEDS_BASE,
)  # fmt: skip
