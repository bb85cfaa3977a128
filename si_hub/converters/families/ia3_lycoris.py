"""(IA)³ of LyCORIS: ΔW = W scaled along its input axis where ``on_input`` says so, else along its output axis."""

from __future__ import annotations

from si_hub.converters.families.contract import NOT_YET, Family, Slots, SourceModule, Target
from si_hub.converters.families.shapes import misfit
from si_hub.converters.naming.suffixes import spell


def check(module: SourceModule, target: Target) -> None:
    """Raise BaseMismatch where the scales are neither for the inputs nor for the outputs of the base module."""
    if module.tensors["ia3_weight"].count not in target.shape[:2]:
        raise misfit(
            module, "ia3_weight", "scale's", " or ".join(map(str, target.shape[:2])),
            list(module.tensors["ia3_weight"].shape), target,
        )  # fmt: skip


FAMILY = Family(
    "ia3-lycoris", "(IA)³ of LyCORIS", Slots.of("ia3_weight on_input"), check,
    spell("lycoris", ia3_weight=".weight", on_input=".on_input"), reason=NOT_YET,
)  # fmt: skip
