"""LoRA with a bias of up, PEFT's ``lora_bias``: ΔW = alpha / rank · up · down, Δb = alpha / rank · bias."""

from __future__ import annotations

from si_hub.converters.families import lora
from si_hub.converters.families.contract import Family, Lowered, Slots, SourceModule, Target
from si_hub.converters.families.shapes import bias_delta, check_bias, check_pair, pair_axes, pair_rank
from si_hub.converters.naming.suffixes import spell
from si_hub.converters.numbers import multiply


def check(module: SourceModule, target: Target) -> None:
    """Raise where pair or bias is not for the base module: see `check_pair` and `check_bias`."""
    check_pair(module, target)
    check_bias(module, "up_bias", target)


def lower(module: SourceModule, target: Target) -> Lowered:
    """The pair's bytes as they are; the bias is read and scaled like the product, unless the scale is one."""
    lowered, rank = lora.lower(module, target), pair_rank(module)
    bias = bias_delta(module, "up_bias", target)
    scale = 1.0 if module.alpha is None or not rank else module.alpha / rank
    if scale != 1:
        lowered.folded.add("up_bias")
        bias = multiply(bias, scale)
    lowered.leaves["bias_delta"] = bias
    return lowered


FAMILY = Family(
    "lora-bias", "LoRA with a bias", Slots.of("down up up_bias", may="alpha"), check,
    spell("peft", named=True, up_bias=".lora_B.bias"), rank=pair_rank, axes=pair_axes, lower=lower,
)  # fmt: skip
