"""LoRA and LoCon: ΔW = alpha / rank · up · down. The bytes stay as they are, alpha goes into the layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from si_hub.converters.dense import BaseModule, Difference, as_double
from si_hub.converters.families.contract import Family, Lowered, Slots, SourceModule, Target, scale_of
from si_hub.converters.families.shapes import (
    bias_delta,
    bias_difference,
    check_bias,
    check_pair,
    pair_axes,
    pair_groups,
    pair_rank,
    reshape,
)
from si_hub.converters.naming.suffixes import spell

if TYPE_CHECKING:
    import torch

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


def differ(module: SourceModule, target: Target, own: BaseModule | None = None) -> Difference:
    """up ``[out, rank / groups]`` times down ``[rank, in, *kernel]``, times alpha / rank."""
    return Difference(lambda: multiply_pair(module, target), bias_difference(module, "diff_b"))


def multiply_pair(module: SourceModule, target: Target) -> torch.Tensor:
    """The product of a pair, scaled, float64, in the target's shape; with all inputs for a grouped convolution's.

    Each group of outputs has its own share of the rank, which reads all inputs, as PEFT shapes it.
    """
    import torch

    up, down = as_double(module.tensors["up"]).flatten(1), as_double(module.tensors["down"])
    groups = pair_groups(module)
    shares = zip(up.chunk(groups), down.flatten(1).chunk(groups), strict=True)
    product = torch.cat([rows @ share for rows, share in shares]) * scale_of(module, pair_rank(module))
    return product.reshape(target.shape if groups == 1 else (up.shape[0], *down.shape[1:]))


def lower(module: SourceModule, target: Target, own: BaseModule | None = None) -> Lowered:
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
    "lora", "LoRA or LoCon", Slots.of("down up", may="alpha diff_b"), check, differ, LORA_SUFFIXES,
    rank=pair_rank, axes=pair_axes, lower=lower,
)  # fmt: skip
