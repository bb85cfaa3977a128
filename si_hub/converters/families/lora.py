"""LoRA and LoCon: ΔW = alpha / rank · up · down. The bytes stay as they are, alpha goes into the layer."""

from __future__ import annotations

from si_hub.converters.families.contract import Family, Lowered, Slots, SourceModule, Target
from si_hub.converters.families.shapes import (
    bias_delta,
    check_bias,
    check_pair,
    pair_axes,
    pair_groups,
    pair_rank,
    reshape,
)
from si_hub.converters.naming.suffixes import spell

LORA_SUFFIXES = (
    spell("kohya", down=".lora_down.weight", up=".lora_up.weight", alpha=".alpha")
    | spell("peft", named=True, down=".lora_A.weight .lora_A", up=".lora_B.weight .lora_B")
    | spell("diffusers", down=".lora.down.weight .lora_linear_layer.down.weight",
            up=".lora.up.weight .lora_linear_layer.up.weight")
    | spell("attention-processor", down="_lora.down.weight", up="_lora.up.weight")
    | spell("xlabs", down=".down.weight", up=".up.weight")
)  # fmt: skip


def check(module: SourceModule, target: Target) -> None:
    """Raise where the pair, or ComfyUI's ``diff_b`` beside it, is not for the base module: see `check_pair`."""
    check_pair(module, target)
    if "diff_b" in module.tensors:
        check_bias(module, "diff_b", target)


def lower(module: SourceModule, target: Target) -> Lowered:
    """up ``[out, rank(, 1, 1)]`` and down ``[rank, in(, *kernel)]`` as the format's pair, in the base's own kind.

    ``diff_b`` is no part of the product and is not scaled.
    """
    down, up = module.tensors["down"], module.tensors["up"]
    leaves = {
        "down.weight": reshape(down, (*down.shape[:2], *target.shape[2:])),
        "up.weight": reshape(up, up.shape[:2]),
    }
    if "diff_b" in module.tensors:
        leaves["bias_delta"] = bias_delta(module, "diff_b", target)
    return Lowered(leaves, module.alpha, pair_groups(module))


FAMILY = Family(
    "lora", "LoRA or LoCon", Slots.of("down up", may="alpha diff_b"), check, LORA_SUFFIXES,
    rank=pair_rank, axes=pair_axes, lower=lower,
)  # fmt: skip
