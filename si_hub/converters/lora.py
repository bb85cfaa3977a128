"""LoRA and LoCon: ΔW = alpha / rank · up · down. The bytes stay as they are, alpha goes into the layer."""

from __future__ import annotations

import math

from si_hub.converters.modules import Lowered, SourceModule, Target
from si_hub.errors import BaseMismatch, LayerShapeError
from si_hub.storage.tensors import Tensor


def lower_lora(module: SourceModule, target: Target) -> Lowered:
    """up ``[out, rank(, 1, 1)]`` and down ``[rank, in(, *kernel)]`` as the format's pair.

    Raises:
        LayerShapeError: up and down contradict each other.
        BaseMismatch: they do not fit the base module.
    """
    down, up = module.tensors["down"], module.tensors["up"]
    rank = check_pair(module)
    out, in_, *kernel = target.shape if len(target.shape) > 1 else (*target.shape, 0)
    groups = rank // up.shape[1] if up.shape[1] else 1
    if up.shape[0] != out:
        raise misfit(module, "up", "output", out, up.shape[0], target)
    if down.shape[1] != in_ * groups:
        raise misfit(module, "down", "input", in_ * groups, down.shape[1], target)
    if _kernel(down) != tuple(size for size in kernel if kernel.count(1) != len(kernel)):
        raise misfit(module, "down", "kernel", kernel or "none", list(down.shape[2:]) or "none", target)
    leaves = {
        "down.weight": down.reshape(rank, down.shape[1], *kernel),
        "up.weight": up.reshape(*up.shape[:2]),
    }
    return Lowered(leaves, module.alpha, groups)


def check_pair(module: SourceModule) -> int:
    """The rank that up and down agree on."""
    down, up = module.tensors["down"], module.tensors["up"]
    for slot, tensor in (("down", down), ("up", up)):
        if len(tensor.shape) < 2:
            raise LayerShapeError(
                f"a LoRA {slot} matrix needs two axes or more", file=module.file, key=module.names[slot],
                found=list(tensor.shape),
            )  # fmt: skip
    if math.prod(up.shape[2:]) != 1:
        raise LayerShapeError(
            "the up matrix has a kernel", file=module.file, key=module.names["up"],
            expected="[out, rank] or [out, rank, 1, 1]", found=list(up.shape),
        )  # fmt: skip
    rank, other = down.shape[0], up.shape[1]
    # PEFT gives the up matrix of a grouped convolution rank / groups columns.
    grouped = len(down.shape) > 2 and other and rank % other == 0
    if rank != other and not grouped:
        raise LayerShapeError(
            "up and down have different ranks", file=module.file, key=module.names["up"],
            expected=f"{rank} columns, the rows of {module.names['down']}", found=list(up.shape),
        )  # fmt: skip
    return rank


def misfit(module: SourceModule, slot: str, axis: str, expected: object, found: object, target: Target) -> BaseMismatch:
    """The error for a tensor that does not fit the base module."""
    return BaseMismatch(
        f"the {axis} size differs from the base model's {target.kind} {list(target.shape)}",
        file=module.file, key=module.names[slot], expected=expected, found=found,
        hint="Say which base model it is for with --base.",
    )  # fmt: skip


def _kernel(down: Tensor) -> tuple[int, ...]:
    kernel = down.shape[2:]
    return () if all(size == 1 for size in kernel) else kernel
