"""LoRA with a bias of up, PEFT's ``lora_bias``: ΔW = alpha / rank · up · down, Δb = alpha / rank · bias."""

from __future__ import annotations

from si_hub.converters.dense import BaseModule, Difference, as_double
from si_hub.converters.families import lora
from si_hub.converters.families.contract import Family, Lowered, Slots, SourceModule, Target, scale_of
from si_hub.converters.families.shapes import bias_delta, check_bias, check_pair, pair_axes, pair_rank
from si_hub.converters.naming.suffixes import spell
from si_hub.converters.numbers import multiply


def check(module: SourceModule, target: Target) -> None:
    """Raise where pair or bias is not for the base module: see `check_pair` and `check_bias`."""
    check_pair(module, target)
    check_bias(module, "up_bias", target)


def differ(module: SourceModule, target: Target, own: BaseModule | None = None) -> Difference:
    """The pair's product and the bias, both scaled."""
    scale = scale_of(module, pair_rank(module))
    return Difference(
        lambda: lora.multiply_pair(module, target), lambda: scale * as_double(module.tensors["up_bias"]).flatten()
    )


def lower(module: SourceModule, target: Target, own: BaseModule | None = None) -> Lowered:
    """The pair's bytes as they are; the bias is read and scaled like the product, unless the scale is one."""
    lowered = lora.lower(module, target)
    bias, scale = bias_delta(module, "up_bias", target), scale_of(module, pair_rank(module))
    lowered.leaves["bias_delta"] = bias if scale == 1 else multiply(bias, scale)
    return lowered


FAMILY = Family(
    "lora-bias", "LoRA with a bias", Slots.of("down up up_bias", may="alpha"), check, differ,
    spell("peft", named=True, up_bias=".lora_B.bias"), rank=pair_rank, axes=pair_axes, lower=lower,
)  # fmt: skip
