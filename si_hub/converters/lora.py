"""LoRA and LoCon: ΔW = alpha / rank · up · down. The bytes stay as they are, alpha goes into the layer."""

from __future__ import annotations

from si_hub.converters.checks import bias, misfit, pair_rank, shaped, unequal_ranks
from si_hub.converters.modules import Lowered, SourceModule, Target
from si_hub.converters.numbers import scaled
from si_hub.errors import BaseMismatch
from si_hub.storage.tensors import Tensor


def lower_lora(module: SourceModule, target: Target) -> Lowered:
    """up ``[out, rank(, 1, 1)]`` and down ``[rank, in(, *kernel)]`` as the format's pair, in the base's own kind.

    A bias of up is scaled like the product (PEFT's ``lora_bias``); ``diff_b`` is not (ComfyUI's).

    Raises:
        LayerShapeError: up and down contradict each other.
        BaseMismatch: they do not fit the base module.
    """
    down, up = module.tensors["down"], module.tensors["up"]
    rank = pair_rank(module)
    if target.kind not in ("linear", "conv"):
        raise BaseMismatch(
            f"a LoRA pair cannot change a base module of kind {target.kind}", file=module.file, key=module.names["up"]
        )
    out, in_, *kernel = target.shape
    groups = rank // up.shape[1] if up.shape[1] else 1
    if up.shape[0] != out:
        raise misfit(module, "up", "output", out, up.shape[0], target)
    if groups > 1 and down.shape[1] != in_ * groups:
        raise unequal_ranks(module)
    if down.shape[1] != in_ * groups:
        raise misfit(module, "down", "input", in_ * groups, down.shape[1], target)
    if _kernel(down.shape[2:]) != _kernel(tuple(kernel)):
        raise misfit(module, "down", "kernel", kernel or "none", list(down.shape[2:]) or "none", target)
    leaves = {"down.weight": shaped(down, (rank, down.shape[1], *kernel)), "up.weight": shaped(up, up.shape[:2])}
    lowered = Lowered(leaves, module.alpha, groups)
    if "diff_b" in module.tensors:
        leaves["bias_delta"] = bias(module, "diff_b", target)
    if "up_bias" in module.tensors:
        leaves["bias_delta"] = _scaled_bias(module, rank, target, lowered)
    return lowered


def _scaled_bias(module: SourceModule, rank: int, target: Target, lowered: Lowered) -> Tensor:
    tensor = bias(module, "up_bias", target)
    scale = 1.0 if module.alpha is None or not rank else module.alpha / rank
    if scale == 1:
        return tensor
    lowered.folded.add("up_bias")
    return scaled(tensor, scale)


def _kernel(kernel: tuple[int, ...]) -> tuple[int, ...]:
    """A kernel without those of size one: a 1x1 convolution and a linear layer are the same."""
    return () if all(size == 1 for size in kernel) else kernel
