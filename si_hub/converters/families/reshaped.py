"""Control LoRAs whose layer is wider than the base's: ComfyUI's ``reshape_weight`` beside a pair."""

from __future__ import annotations

from si_hub.converters.families.contract import Family, Slots, SourceModule, Target
from si_hub.converters.families.shapes import check_matrix, size_of


def check(module: SourceModule, target: Target) -> None:
    """Raise BaseMismatch where a pair has other outputs than the base module; inputs may be more than the base's."""
    if "up" in module.tensors:
        check_matrix(module, target, size_of(module, "up", 0), None)


FAMILY = Family(
    "reshaped", "control LoRA that makes layers wider", Slots.of("reshape", may="down up alpha diff_b set_weight"),
    check, reason="no adapter changes the shape of its base model's layers",
)  # fmt: skip
