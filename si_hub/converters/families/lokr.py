"""LoKr: ΔW = scale · w1 ⊗ w2, each whole or of two factors, w2 with or without a Tucker core (arXiv 2212.10650)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from si_hub.converters.dense import BaseModule, Difference, as_double
from si_hub.converters.families.contract import Family, Lowered, Slots, SourceModule, Target, lower_whole, scale_of
from si_hub.converters.families.shapes import (
    Size,
    bias_delta,
    bias_difference,
    check_bias,
    check_matrix,
    misfit,
    reshape,
    unequal_factors,
)
from si_hub.converters.naming.suffixes import spell
from si_hub.errors import LayerShapeError
from si_hub.storage.tensors import Tensor

if TYPE_CHECKING:
    import torch

LOKR_FACTORS = "lokr_w1 lokr_w1_a lokr_w1_b lokr_w2 lokr_w2_a lokr_w2_b lokr_t2"


def check(module: SourceModule, target: Target) -> None:
    """Raise where the Kronecker product is not for the base module.

    Raises:
        LayerShapeError: a factor that is half there, or factors that do not multiply.
        BaseMismatch: it does not fit.
    """
    for factor in ("lokr_w1", "lokr_w2"):
        _check_factor(module, factor)
    check_matrix(module, target, *lokr_size(module))
    left = _factor(module, "lokr_w1")
    if left and (not left[1] or target.shape[1] % left[1]):
        slot = next(name for name in module.tensors if name.startswith("lokr_w1"))
        raise misfit(module, slot, "input", f"a divisor of {target.shape[1]}", left[1], target)
    if "diff_b" in module.tensors:
        check_bias(module, "diff_b", target)


def _check_factor(module: SourceModule, name: str) -> None:
    held = {slot: tensor.shape for slot, tensor in module.tensors.items() if slot.startswith(name)}
    whole, first, second = held.get(name), held.get(f"{name}_a"), held.get(f"{name}_b")
    # The kernel is the second factor's.
    flat = name == "lokr_w2" or all(math.prod(one[2:]) == 1 for one in held.values())
    if whole is not None and first is None and second is None and len(whole) > 1 and flat:
        return
    if whole is not None or first is None or second is None or len(first) != 2 or len(second) < 2 or not flat:
        raise LayerShapeError(
            "a Kronecker factor is whole, or a product of two matrices", file=module.file,
            key=next(iter(module.names.values())), expected=f"{name}, or {name}_a and {name}_b",
            found=", ".join(f"{slot} {list(shape)}" for slot, shape in held.items()) or "none of them",
        )  # fmt: skip
    core = module.tensors.get("lokr_t2") if name == "lokr_w2" else None
    if first[1] != second[0] if core is None else core.shape[:2] != (first[0], second[0]):
        raise unequal_factors(module, f"{name}_a", f"{name}_b")


def lokr_size(module: SourceModule) -> tuple[Size | None, Size | None]:
    """Rows and columns of the Kronecker product, as far as shapes say them."""
    left, right = _factor(module, "lokr_w1"), _factor(module, "lokr_w2")
    if left is None or right is None:
        return None, None
    slot = next(name for name in module.tensors if name.startswith("lokr_w2"))
    return (slot, left[0] * right[0]), (slot, left[1] * right[1])


def _factor(module: SourceModule, name: str) -> tuple[int, int] | None:
    """Rows and columns of one factor, its kernel laid flat."""
    shapes = {part: tensor.shape for part, tensor in module.tensors.items() if part.startswith(name)}
    if name in shapes:
        whole = shapes[name]
        return (whole[0], math.prod(whole[1:])) if len(whole) > 1 else None
    first, second = shapes.get(f"{name}_a", ()), shapes.get(f"{name}_b", ())
    if len(first) < 2 or len(second) < 2:
        return None
    core = module.tensors.get("lokr_t2") if name == "lokr_w2" else None
    if core is not None:
        return first[1], second[1] * math.prod(core.shape[2:])
    return first[0], math.prod(second[1:])


def lokr_rank(module: SourceModule) -> int | None:
    """What alpha is divided by: rows of w2_b, else of w1_b; ``None`` where both are whole, and alpha says nothing."""
    for slot in ("lokr_w2_b", "lokr_w1_b"):
        if slot in module.tensors:
            return module.tensors[slot].shape[0]
    return None


def differ(module: SourceModule, target: Target, own: BaseModule | None = None) -> Difference:
    """The Kronecker product, scaled."""

    def multiply() -> torch.Tensor:
        import torch

        product = torch.kron(_multiply_left(module), _multiply_right(module).flatten(1))
        return product.reshape(target.shape) * scale_of(module, lokr_rank(module))

    return Difference(multiply, bias_difference(module, "diff_b"))


def _multiply_left(module: SourceModule) -> torch.Tensor:
    """w1, float64 ``[o1, i1]``."""
    if "lokr_w1" in module.tensors:
        return as_double(module.tensors["lokr_w1"]).flatten(1)
    return as_double(module.tensors["lokr_w1_a"]) @ as_double(module.tensors["lokr_w1_b"]).flatten(1)


def _multiply_right(module: SourceModule) -> torch.Tensor:
    """w2, float64, its kernel behind it or laid flat."""
    if "lokr_w2" in module.tensors:
        return as_double(module.tensors["lokr_w2"])
    up, down = _pair_right(module)
    return up @ down.flatten(1)


def _pair_right(module: SourceModule) -> tuple[torch.Tensor, torch.Tensor]:
    """w2 as a pair ``[o2, r]`` and ``[r, i2, *kernel]`` or ``[r, i2 · kernel]``, float64."""
    import torch

    first, second = as_double(module.tensors["lokr_w2_a"]), as_double(module.tensors["lokr_w2_b"])
    if "lokr_t2" not in module.tensors:
        return first, second
    # torch.kron takes no transposed views.
    up = first.T.contiguous()
    return up, torch.einsum("ij...,jr->ir...", as_double(module.tensors["lokr_t2"]), second).contiguous()


def lower(module: SourceModule, target: Target, own: BaseModule | None = None) -> Lowered:
    """``kron`` with w2 as a pair or whole, at the source's own size, bytes as they are wherever they can be.

    Parts of a fused module get rows of ``kron`` where each of them is whole blocks; else the whole is the smaller of a
    pair and the dense difference.
    """
    size = _factor(module, "lokr_w2")
    if size is None or any(cut % size[0] for cut in target.cuts) or target.kind == "embedding":
        return lower_expanded(module, target)
    lowered = _lower_right(module, target, size[0])
    whole, scale = module.tensors.get("lokr_w1"), scale_of(module, lokr_rank(module))
    # A pair carries the scale in its alpha.
    rest = 1.0 if "up.weight" in lowered.leaves else scale
    if whole is not None and rest == 1:
        lowered.leaves["kron"] = reshape(whole, whole.shape[:2])
    else:
        rows, columns = _factor(module, "lokr_w1") or (0, 0)
        lowered.leaves["kron"] = Tensor.compute((rows, columns), lambda: rest * _multiply_left(module))
    if "diff_b" in module.tensors:
        lowered.leaves["bias_delta"] = bias_delta(module, "diff_b", target)
    return lowered


def _lower_right(module: SourceModule, target: Target, rows: int) -> Lowered:
    """w2 as the format's pair, or whole."""
    columns = target.shape[1] // (_factor(module, "lokr_w1") or (0, 1))[1]
    kernel = target.shape[2:]
    if "lokr_w2" in module.tensors:
        return Lowered({"weight_delta": reshape(module.tensors["lokr_w2"], (rows, columns, *kernel))})
    up, down = module.tensors["lokr_w2_a"], module.tensors["lokr_w2_b"]
    if "lokr_t2" not in module.tensors:
        shape = (down.shape[0], columns, *kernel)
        return Lowered({"down.weight": reshape(down, shape), "up.weight": up}, module.alpha)
    shape = (up.shape[0], columns, *kernel)
    leaves = {
        "down.weight": Tensor.compute(shape, lambda: _pair_right(module)[1].reshape(shape)),
        "up.weight": Tensor.compute((rows, up.shape[0]), lambda: _pair_right(module)[0]),
    }
    return Lowered(leaves, module.alpha)


def lower_expanded(module: SourceModule, target: Target) -> Lowered:
    """Without ``kron``: w1 ⊗ w2 as (u1 ⊗ u2)(d1 ⊗ d2) where both are pairs u d, or whole where that is smaller."""
    rank = _inner_rank(module, "lokr_w1") * _inner_rank(module, "lokr_w2")
    if rank * (target.shape[0] + math.prod(target.shape[1:])) >= target.count or target.kind == "embedding":
        return lower_whole(differ(module, target), target)
    scale, down = scale_of(module, lokr_rank(module)), (rank, *target.shape[1:])

    def multiply(side: int) -> torch.Tensor:
        import torch

        return torch.kron(*(_as_pair(module, name)[side] for name in ("lokr_w1", "lokr_w2")))

    leaves = {
        "down.weight": Tensor.compute(down, lambda: (scale * multiply(1)).reshape(down)),
        "up.weight": Tensor.compute((target.shape[0], rank), lambda: multiply(0)),
    }
    if "diff_b" in module.tensors:
        leaves["bias_delta"] = bias_delta(module, "diff_b", target)
    return Lowered(leaves)


def _inner_rank(module: SourceModule, name: str) -> int:
    """The rank of the pair that a factor is."""
    if name in module.tensors:
        return min(_factor(module, name) or (0,))
    return module.tensors[f"{name}_a"].shape[0 if name == "lokr_w2" and "lokr_t2" in module.tensors else 1]


def _as_pair(module: SourceModule, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A factor as a pair, float64; a whole one with the identity on its shorter side."""
    import torch

    if name not in module.tensors:
        up, down = _pair_right(module) if name == "lokr_w2" else (
            as_double(module.tensors["lokr_w1_a"]), as_double(module.tensors["lokr_w1_b"])
        )  # fmt: skip
        return up, down.flatten(1)
    whole = as_double(module.tensors[name]).flatten(1)
    rows, columns = whole.shape
    one = torch.eye(min(rows, columns), dtype=torch.float64)
    return (one, whole) if rows <= columns else (whole, one)


def lokr_axes(module: SourceModule) -> tuple[int, ...]:
    """Number of axes of the right factor, which is written flat where it is a pair."""
    slot = "lokr_w2" if "lokr_w2" in module.tensors else "lokr_w2_b"
    return (len(module.tensors[slot].shape),) if slot in module.tensors else ()


FAMILY = Family(
    "lokr", "LoKr", Slots.of(has_any=LOKR_FACTORS, may="alpha diff_b"), check, differ,
    spell("lycoris", named=True, **{slot: f".{slot}" for slot in LOKR_FACTORS.split()}),
    rank=lokr_rank, axes=lokr_axes, lower=lower,
)  # fmt: skip
