"""Shape rules that several families share, and the errors for what breaks them."""

from __future__ import annotations

import math

from si_hub.converters.modules import SourceModule, Target
from si_hub.errors import BaseMismatch, LayerShapeError
from si_hub.storage.tensors import Tensor

_HINT = "Say which base model it is for with --base."


def misfit(module: SourceModule, slot: str, axis: str, expected: object, found: object, target: Target) -> BaseMismatch:
    """The error for a tensor that does not fit the base module."""
    return BaseMismatch(
        f"the {axis} size differs from the base model's {target.kind} {list(target.shape)}",
        file=module.file, key=module.names[slot], expected=expected, found=found, hint=_HINT,
    )  # fmt: skip


def pair_rank(module: SourceModule) -> int:
    """The rank that up ``[out, rank(, 1, 1)]`` and down ``[rank, in(, *kernel)]`` agree on.

    Raises:
        LayerShapeError: they do not agree, or are no matrices.
    """
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
        raise unequal_ranks(module)
    return rank


def unequal_ranks(module: SourceModule) -> LayerShapeError:
    """The error for up and down that do not multiply."""
    return LayerShapeError(
        "up and down have different ranks", file=module.file, key=module.names["up"],
        expected=f"{module.tensors['down'].shape[0]} columns, the rows of {module.names['down']}",
        found=list(module.tensors["up"].shape),
    )  # fmt: skip


def shaped(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The tensor in another shape of the same size; itself where it has that shape, as most of a plain LoRA's do."""
    return tensor if tensor.shape == shape else tensor.reshape(*shape)


def bias(module: SourceModule, slot: str, target: Target) -> Tensor:
    """The change of a bias in ``slot``, as ``[out]``.

    Raises:
        BaseMismatch: the base module has no bias, or one of another size.
    """
    tensor = module.tensors[slot]
    if not target.bias:
        raise BaseMismatch(
            f"the base model's {target.kind} has no bias to change", file=module.file, key=module.names[slot],
            hint=_HINT,
        )  # fmt: skip
    out = math.prod(target.shape[:1])
    if tensor.count != out:
        raise misfit(module, slot, "bias", out, list(tensor.shape), target)
    return shaped(tensor, (out,))
