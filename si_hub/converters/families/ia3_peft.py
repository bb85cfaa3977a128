"""(IA)³ of PEFT (arXiv 2205.05638): W scaled by l, [out, 1] for outputs, [1, in] for the inputs of feed-forwards."""

from __future__ import annotations

from si_hub.converters.families.contract import NOT_YET, Family, Slots, SourceModule, Target
from si_hub.converters.families.shapes import misfit
from si_hub.converters.naming.suffixes import spell


def check(module: SourceModule, target: Target) -> None:
    """Raise BaseMismatch where the scales are neither for the inputs nor for the outputs of the base module."""
    scales = module.tensors["ia3"]
    if scales.count not in target.shape[:2]:
        raise misfit(module, "ia3", "scale's", " or ".join(map(str, target.shape[:2])), list(scales.shape), target)


FAMILY = Family(
    "ia3-peft", "(IA)³ of PEFT", Slots.of("ia3"), check, spell("peft", named=True, ia3=".ia3_l"), reason=NOT_YET,
)  # fmt: skip
