"""LoCon with a sparse residual, as LyCORIS extracts it: coordinates and values over [out, in · kernel]."""

from __future__ import annotations

from si_hub.converters.families.contract import NOT_YET, Family, Slots, SourceModule, Target
from si_hub.converters.families.shapes import check_matrix, size_of
from si_hub.converters.naming.suffixes import spell


def check(module: SourceModule, target: Target) -> None:
    """Raise BaseMismatch where the pair beside the residual is not for the base module."""
    check_matrix(module, target, size_of(module, "up", 0), None)


FAMILY = Family(
    "sparse", "LoCon with a sparse residual",
    Slots.of("sparse_indices sparse_values sparse_size", may="down mid up alpha diff diff_b"), check,
    spell("lycoris", sparse_indices=".bias_indices", sparse_values=".bias_values", sparse_size=".bias_size"),
    reason=NOT_YET,
)  # fmt: skip
