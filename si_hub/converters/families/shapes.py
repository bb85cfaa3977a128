"""Shape rules that several families share, and the errors for what breaks them. Nothing but shapes is looked at."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from si_hub.converters.dense import Values, as_double
from si_hub.converters.families.contract import SourceModule, Target
from si_hub.errors import BaseMismatch, LayerShapeError
from si_hub.storage.tensors import Tensor
from si_hub.words import option

if TYPE_CHECKING:
    import torch

#: A slot, and the size that its shape says.
Size = tuple[str, int]


def name_the_base() -> str:
    """What to do where a tensor does not fit the base model."""
    return f"Say which base model it is for with {option('base')}."


def misfit(module: SourceModule, slot: str, axis: str, expected: object, found: object, target: Target) -> BaseMismatch:
    """The error for a tensor that does not fit the base module."""
    return BaseMismatch(
        f"the {axis} size differs from the base model's {target.kind} {list(target.shape)}",
        file=module.file, key=module.names[slot], expected=expected, found=found, hint=name_the_base(),
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


def pair_axes(module: SourceModule) -> tuple[int, ...]:
    """Numbers of axes of down and up."""
    return len(module.tensors["down"].shape), len(module.tensors["up"].shape)


def pair_groups(module: SourceModule) -> int:
    """Groups of the convolution that a pair is for."""
    rank, columns = module.tensors["down"].shape[0], module.tensors["up"].shape[1]
    return rank // columns if columns else 1


def unequal_ranks(module: SourceModule) -> LayerShapeError:
    """The error for up and down that do not multiply."""
    down = module.tensors["down"].shape
    return LayerShapeError(
        "up and down have different ranks", file=module.file, key=module.names["up"],
        expected=f"{down[0] if down else 'no'} columns, the rows of {module.names['down']}",
        found=list(module.tensors["up"].shape),
    )  # fmt: skip


def unequal_factors(module: SourceModule, a: str, b: str) -> LayerShapeError:
    """The error for two factors that do not multiply."""
    return LayerShapeError(
        "two factors do not multiply", file=module.file, key=module.names[b],
        expected=f"to fit {module.names[a]} {list(module.tensors[a].shape)}", found=list(module.tensors[b].shape),
    )  # fmt: skip


def check_pair(module: SourceModule, target: Target) -> None:
    """Raise where up ``[out, rank(, 1, 1)]`` and down ``[rank, in(, *kernel)]`` are not for the base module.

    Raises:
        LayerShapeError: up and down contradict each other.
        BaseMismatch: they do not fit.
    """
    down, up = module.tensors["down"], module.tensors["up"]
    pair_rank(module)
    if target.kind not in ("linear", "conv"):
        raise BaseMismatch(
            f"a LoRA pair cannot change a base module of kind {target.kind}", file=module.file, key=module.names["up"]
        )
    out, in_, *kernel = target.shape
    groups = pair_groups(module)
    if up.shape[0] != out:
        raise misfit(module, "up", "output", out, up.shape[0], target)
    if groups > 1 and down.shape[1] != in_ * groups:
        raise unequal_ranks(module)
    if down.shape[1] != in_ * groups:
        raise misfit(module, "down", "input", in_ * groups, down.shape[1], target)
    if _kernel(down.shape[2:]) != _kernel(tuple(kernel)):
        raise misfit(module, "down", "kernel", kernel or "none", list(down.shape[2:]) or "none", target)


def check_matrix(module: SourceModule, target: Target, rows: Size | None, columns: Size | None) -> None:
    """Raise BaseMismatch where rows and columns are not those of the base module's weight, its kernel laid flat.

    Args:
        rows, columns: as far as the module's shapes say them.
    """
    if not target.shape or target.kind not in ("linear", "conv", "embedding"):
        first = next(iter(module.names.values()))
        raise BaseMismatch(f"a matrix cannot change a base module of kind {target.kind}", file=module.file, key=first)
    if rows and rows[1] != target.shape[0]:
        raise misfit(module, rows[0], "output", target.shape[0], rows[1], target)
    if columns and columns[1] != (width := math.prod(target.shape[1:])):
        raise misfit(module, columns[0], "input", width, columns[1], target)


def check_difference(module: SourceModule, slot: str, target: Target) -> None:
    """Raise BaseMismatch where a difference has not the base's shape.

    A 1x1 convolution may stand for a linear layer and the reverse.
    """
    shape = module.tensors[slot].shape
    pointwise = all(math.prod(one[2:]) == 1 and len(one) > 1 for one in (shape, target.shape))
    if shape != target.shape and not (pointwise and shape[:2] == target.shape[:2]):
        raise misfit(module, slot, "weight", list(target.shape), list(shape), target)


def check_bias(module: SourceModule, slot: str, target: Target) -> None:
    """Raise BaseMismatch where ``slot`` changes a bias that the base module has not, or one of another size."""
    if not target.bias:
        raise BaseMismatch(
            f"the base model's {target.kind} has no bias to change", file=module.file, key=module.names[slot],
            hint=name_the_base(),
        )  # fmt: skip
    tensor, out = module.tensors[slot], math.prod(target.shape[:1])
    if tensor.count != out:
        raise misfit(module, slot, "bias", out, list(tensor.shape), target)


def bias_difference(module: SourceModule, slot: str) -> Values | None:
    """What ``slot`` adds to the bias, float64 ``[out]``; ``None`` where there is no such tensor."""
    tensor = module.tensors.get(slot)
    return None if tensor is None else lambda: as_double(tensor).flatten()


def bias_delta(module: SourceModule, slot: str, target: Target) -> Tensor:
    """The change of a bias in ``slot``, as ``[out]``."""
    return reshape(module.tensors[slot], target.shape[:1])


def along(values: torch.Tensor, axis: int, ndim: int) -> torch.Tensor:
    """Numbers, one for each place along an axis, in a shape that broadcasts over ``ndim`` axes."""
    return values.reshape([-1 if at == axis else 1 for at in range(ndim)])


def reshape(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The tensor in another shape of the same size; itself where it has that shape, as most of a plain LoRA's do."""
    return tensor if tensor.shape == shape else tensor.reshape(*shape)


def size_of(module: SourceModule, slot: str, axis: int) -> Size | None:
    """The size of one axis of a slot, where there is such a tensor with such an axis."""
    tensor = module.tensors.get(slot)
    return (slot, tensor.shape[axis]) if tensor is not None and -len(tensor.shape) <= axis < len(tensor.shape) else None


def _kernel(kernel: tuple[int, ...]) -> tuple[int, ...]:
    """A kernel without those of size one: a 1x1 convolution and a linear layer are the same."""
    return () if all(size == 1 for size in kernel) else kernel
