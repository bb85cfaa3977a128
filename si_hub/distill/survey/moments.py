"""Second moments of rows that stream by, and their square roots: what a layer's error counts for in each direction.

``C = E[x xᵀ]`` of a layer's inputs and ``G = E[g gᵀ]`` of the gradients at its output say how much a change ΔW of its
weight is felt: ``E[(gᵀ ΔW x)²] ≈ ‖G^½ ΔW C^½‖²`` (Martens & Grosse, arXiv 1503.05671).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Protocol

import torch
from torch import Tensor

#: Added to the diagonal, as a share of its mean: directions that were never seen still count for something.
DAMPING = 1e-2
#: Columns of a sketch.
SKETCH = 256
#: Squared singular values, of the largest, that are rounding.
_ROUNDING = 1e-10


class Root(Protocol):
    """A square L with L Lᵀ = the moment, never formed where the moment is not.

    Attributes:
        formed: whether L is there as a matrix.
    """

    formed: ClassVar[bool]

    def times(self, rows: Tensor) -> Tensor:
        """``rows [n, width]`` times L."""

    def times_turned(self, rows: Tensor) -> Tensor:
        """``rows [n, width]`` times Lᵀ."""

    def over(self, rows: Tensor) -> Tensor:
        """``rows [n, width]`` times L⁻¹."""

    def summands(self) -> tuple[Tensor, Tensor]:
        """``d [width]`` and ``F [width, some]``, float64, with L Lᵀ = diag(d) + F Fᵀ."""


class Moment(Protocol):
    """A sum of outer products of rows."""

    tensors: dict[str, Tensor]

    def add(self, rows: Tensor) -> None:
        """Count ``rows [n, width]`` in."""

    def root(self, damping: float = DAMPING) -> Root:
        """The square root of the damped mean."""


class Dense:
    """The whole matrix.

    Attributes:
        tensors: ``sum [width, width]`` and ``count``; sums of them are the moments of all rows together.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self.tensors = {"sum": torch.zeros(width, width, device=device), "count": torch.zeros((), device=device)}

    def add(self, rows: Tensor) -> None:
        self.tensors["sum"].addmm_(rows.T, rows)
        self.tensors["count"] += len(rows)

    def root(self, damping: float = DAMPING) -> Root:
        mean = self.tensors["sum"].double() / self.tensors["count"].clamp(min=1)
        mean.diagonal().add_(_ridge(mean.diagonal(), damping))
        values, vectors = torch.linalg.eigh(mean)
        scales = values.clamp(min=float(values[-1]) * 1e-12).sqrt()
        return _Whole(((vectors * scales) @ vectors.T).float(), ((vectors / scales) @ vectors.T).float())


class Sketched:
    """The diagonal and a low-rank part, for widths whose matrix is too large (Nyström: Tropp et al., arXiv 1706.05736).

    Attributes:
        tensors: ``product [width, columns]`` (the sum times a fixed random matrix), ``diagonal``, ``count``.
    """

    def __init__(self, width: int, device: torch.device, columns: int = SKETCH) -> None:
        self.tensors = {
            "product": torch.zeros(width, columns, device=device),
            "diagonal": torch.zeros(width, device=device),
            "count": torch.zeros((), device=device),
        }

    def add(self, rows: Tensor) -> None:
        test = _test(*self.tensors["product"].shape).to(rows)
        self.tensors["product"].addmm_(rows.T, rows @ test)
        self.tensors["diagonal"] += rows.square().sum(0)
        self.tensors["count"] += len(rows)

    def root(self, damping: float = DAMPING) -> Root:
        count = self.tensors["count"].clamp(min=1)
        diagonal, product = self.tensors["diagonal"].double() / count, self.tensors["product"].double() / count
        factor = _nystrom(product, _test(*product.shape).to(product))
        rest = (diagonal - factor.square().sum(1)).clamp(min=0.0) + _ridge(diagonal, damping)
        directions, lengths = _principal(factor / rest.sqrt()[:, None])
        return _Split(rest.sqrt().float(), directions.float(), (1.0 + lengths.square()).sqrt().float())


@cache
def _test(width: int, columns: int) -> Tensor:
    """The random matrix of a sketch, the same in every process."""
    return torch.randn(width, columns, generator=torch.Generator().manual_seed(0))


def _ridge(diagonal: Tensor, damping: float) -> float:
    """What is added to the diagonal; 1 for rows that were all zero."""
    return damping * float(diagonal.mean()) or 1.0


def _nystrom(product: Tensor, test: Tensor) -> Tensor:
    """F ``[width, columns]`` with F Fᵀ near to a positive matrix M, from ``M test``; float64."""
    shift = 1e-7 * float(product.norm()) or 1.0
    shifted = product + shift * test
    core = test.T @ shifted
    half = torch.linalg.cholesky((core + core.T) / 2)
    directions, scales = _principal(torch.linalg.solve_triangular(half, shifted.T, upper=False).T)
    return directions * (scales.square() - shift).clamp(min=0.0).sqrt()


def _principal(factor: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors ``[width, some]`` and values of a tall matrix; those that are rounding are left out."""
    values, vectors = torch.linalg.eigh(factor.T @ factor)
    kept = values > _ROUNDING * values[-1]
    lengths = values[kept].sqrt()
    return factor @ vectors[:, kept] / lengths, lengths


@dataclass(frozen=True, slots=True)
class _Whole:
    """L, which is symmetric, and its inverse."""

    matrix: Tensor
    inverse: Tensor
    formed: ClassVar[bool] = True

    def times(self, rows: Tensor) -> Tensor:
        return rows @ self.matrix

    def times_turned(self, rows: Tensor) -> Tensor:
        return rows @ self.matrix

    def over(self, rows: Tensor) -> Tensor:
        return rows @ self.inverse

    def summands(self) -> tuple[Tensor, Tensor]:
        wide = self.matrix.double()
        return wide.new_zeros(len(wide)), wide


@dataclass(frozen=True, slots=True)
class _Split:
    """L = D (I + Z (stretch − 1) Zᵀ) with orthonormal Z ``[width, columns]``."""

    diagonal: Tensor
    directions: Tensor
    stretch: Tensor
    formed: ClassVar[bool] = False

    def times(self, rows: Tensor) -> Tensor:
        return self._stretch_rows(rows * self.diagonal, self.stretch - 1.0)

    def times_turned(self, rows: Tensor) -> Tensor:
        return self._stretch_rows(rows, self.stretch - 1.0) * self.diagonal

    def over(self, rows: Tensor) -> Tensor:
        return self._stretch_rows(rows, 1.0 / self.stretch - 1.0) / self.diagonal

    def summands(self) -> tuple[Tensor, Tensor]:
        wide = self.diagonal.double()
        factor = self.directions.double() * (self.stretch.double().square() - 1.0).sqrt()
        return wide.square(), wide[:, None] * factor

    def _stretch_rows(self, rows: Tensor, by: Tensor) -> Tensor:
        return torch.addmm(rows, (rows @ self.directions) * by, self.directions.T)


def dense_limit(widths: Iterable[int], room: int) -> int:
    """The largest width whose moments can be whole matrices, so that all of ``widths`` together take ``room`` bytes."""
    taken, limit = 0, 0
    for width, times in sorted(Counter(widths).items()):
        taken += 4 * width * width * times
        if taken > room:
            break
        limit = width
    return limit


def moment(width: int, limit: int, device: torch.device) -> Moment:
    """An empty moment: whole up to a width of ``limit``, sketched above, unless a sketch would be no smaller."""
    return Dense(width, device) if width <= max(limit, SKETCH) else Sketched(width, device)
