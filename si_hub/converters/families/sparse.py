"""LoCon with a sparse residual, as LyCORIS extracts it: coordinates and values over [out, in · kernel]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from si_hub.converters.dense import BaseModule, Difference, as_double
from si_hub.converters.families import full, locon_tucker, lora
from si_hub.converters.families.contract import Family, Lowered, Slots, SourceModule, Target
from si_hub.converters.families.shapes import check_matrix, misfit, pair_rank, size_of
from si_hub.converters.naming.suffixes import spell
from si_hub.converters.numbers import integers
from si_hub.errors import FormatError
from si_hub.storage.tensors import Tensor

if TYPE_CHECKING:
    import torch


def check(module: SourceModule, target: Target) -> None:
    """Raise where the residual or the pair beside it is not for the base module.

    Raises:
        LayerShapeError: tensors that contradict each other.
        BaseMismatch: they do not fit.
    """
    indices, values = module.tensors["sparse_indices"], module.tensors["sparse_values"]
    if indices.shape != (2, values.count):
        raise misfit(module, "sparse_indices", "coordinates'", [2, values.count], list(indices.shape), target)
    check_matrix(module, target, size_of(module, "up", 0), None)
    if found := _companion(module):
        found.fits(module, target)


def _companion(module: SourceModule) -> Family | None:
    """The family of what stands beside the residual."""
    families = (lora.FAMILY, locon_tucker.FAMILY, full.FAMILY)
    slots = {slot for slot in module.tensors if not slot.startswith("sparse_")} - {"alpha"}
    return next((family for family in families if slots and family.when.objection(slots) is None), None)


def sparse_rank(module: SourceModule) -> int | None:
    """The rank of the pair beside it."""
    return pair_rank(module) if {"down", "up"} <= module.tensors.keys() and "mid" not in module.tensors else (
        locon_tucker.core_rank(module) if "mid" in module.tensors else None
    )  # fmt: skip


def differ(module: SourceModule, target: Target, own: BaseModule | None = None) -> Difference:
    """What stands beside the residual, and the residual, which no alpha scales."""
    found = _companion(module)
    beside = found.differ(module, target, own) if found and found.differ else Difference()

    def add() -> torch.Tensor:
        residual = _residual(module, target)
        return residual + beside.weight() if beside.weight else residual

    return Difference(add, beside.bias)


def _residual(module: SourceModule, target: Target) -> torch.Tensor:
    """The residual, float64, in the target's shape; FormatError for coordinates outside of it."""
    import torch

    try:
        indices, size = (_unwrap(module.tensors[slot]) for slot in ("sparse_indices", "sparse_size"))
    except ValueError as error:
        raise FormatError(str(error), file=module.file, key=module.names["sparse_indices"]) from error
    rows, columns = indices.reshape(2, -1)
    dense = torch.zeros(target.shape[0], target.count // target.shape[0], dtype=torch.float64)
    if size.flatten().tolist() not in ([*dense.shape], [number % 65536 for number in dense.shape]):
        raise FormatError(
            "is the size of another layer", file=module.file, key=module.names["sparse_size"],
            expected=list(dense.shape), found=size.flatten().tolist()[:4],
        )  # fmt: skip
    inside = (indices >= 0) & (indices < torch.tensor(dense.shape)[:, None])
    if rows.numel() and not bool(inside.all()):
        raise FormatError(
            "has coordinates outside of the layer", file=module.file, key=module.names["sparse_indices"],
            expected=f"below {list(dense.shape)}", found=[int(rows.max()), int(columns.max())],
        )  # fmt: skip
    dense.index_put_((rows, columns), as_double(module.tensors["sparse_values"]).flatten(), accumulate=True)
    return dense.reshape(target.shape)


def _unwrap(tensor: Tensor) -> torch.Tensor:
    """Whole numbers; LyCORIS stores them in 16 bits, in which the last ones of a large layer are negative."""
    import torch

    numbers = torch.from_numpy(integers(tensor))
    return numbers % 65536 if tensor.dtype == "I16" else numbers


def lower(module: SourceModule, target: Target, own: BaseModule | None = None) -> Lowered:
    """The residual as ``weight_delta``, beside the pair as it is; a full difference takes it in."""
    found = _companion(module)
    if found is None or found is full.FAMILY:
        lowered = Lowered({}) if found is None else full.lower(module, target)
        lowered.leaves["weight_delta"] = Tensor.compute(target.shape, differ(module, target, own).weight or _nothing)
        return lowered
    lowered = found.lower_module(module, target, own)
    lowered.leaves["weight_delta"] = Tensor.compute(target.shape, lambda: _residual(module, target))
    return lowered


def _nothing() -> torch.Tensor:
    raise AssertionError("a sparse module always has a residual")


FAMILY = Family(
    "sparse", "LoCon with a sparse residual",
    Slots.of("sparse_indices sparse_values sparse_size", may="down mid up alpha diff diff_b"), check, differ,
    spell("lycoris", sparse_indices=".bias_indices", sparse_values=".bias_values", sparse_size=".bias_size"),
    rank=sparse_rank, lower=lower,
)  # fmt: skip
