"""DoRA: W' = m · (W + ΔW) / ‖W + ΔW‖, on top of a pair or of LoHa or LoKr factors (arXiv 2402.09353)."""

from __future__ import annotations

import math

from si_hub.converters.families import loha, lokr
from si_hub.converters.families.contract import NEEDS_BASE, Family, Slots, SourceModule, Target
from si_hub.converters.families.shapes import Size, check_matrix, check_pair, misfit, size_of
from si_hub.converters.naming.suffixes import spell


def check(module: SourceModule, target: Target) -> None:
    """Raise where change or magnitude, of the output or the input axis, is not for the base module."""
    if {"down", "up"} <= module.tensors.keys() and "mid" not in module.tensors:
        check_pair(module, target)
    else:
        check_matrix(module, target, *_matrix(module))
    if module.tensors["magnitude"].count not in target.shape[:2]:
        raise misfit(
            module, "magnitude", "magnitude's", " or ".join(map(str, target.shape[:2])),
            list(module.tensors["magnitude"].shape), target,
        )  # fmt: skip


def _matrix(module: SourceModule) -> tuple[Size | None, Size | None]:
    if any(slot.startswith("lokr") for slot in module.tensors):
        return lokr.lokr_size(module)
    if any(slot.startswith("hada") for slot in module.tensors):
        return loha.loha_size(module)
    width, core = size_of(module, "down", 1), module.tensors.get("mid")
    columns = width and ("down", width[1] * math.prod(core.shape[2:] if core else ()))
    return size_of(module, "up", 0), columns


FAMILY = Family(
    "dora", "DoRA",
    Slots.of(
        "magnitude",
        may=f"down up mid alpha {loha.LOHA_FACTORS} {loha.CORES} {lokr.LOKR_FACTORS} diff diff_b w_norm b_norm",
    ),
    check,
    spell("kohya", magnitude=".dora_scale")
    | spell("peft", named=True, magnitude=".lora_magnitude_vector .lora_magnitude_vector.weight")
    | spell("ai-toolkit", magnitude=".magnitude"),
    needs_base=True, reason=NEEDS_BASE,
)  # fmt: skip
