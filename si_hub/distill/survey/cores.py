"""Pieces of convolutions between fewer inputs: directions that they share, and small cores (Tucker's form).

A piece ``u vᵀ`` of a convolution has a row v of ``in · kernel`` numbers. With directions Q ``[q, in]`` that the pieces
share, ``v ≈ (core) (Q ⊗ I)`` costs ``q · kernel`` numbers a piece and ``q · in`` once. Directions are those of the
pieces as they are felt, the leading ones first (the higher-order SVD's: De Lathauwer, De Moor, Vandewalle 2000), with
the moment of a channel where the kernel's middle lies; given them, each core is the nearest to its row in the norm of
the layer's inputs, ``‖(v − core (Q ⊗ I)) L_c‖``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from si_hub.distill.survey.moments import Root

#: Numbers of directions that are tried.
DIRECTIONS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True, slots=True)
class Cores:
    """A layer's pieces between fewer inputs.

    Attributes:
        inputs: directions, the leading ones first, each of length 1: ``[directions, in]``.
        cores: for each number of directions those of all pieces, ``[pieces, directions, *kernel]``.
        kept: for each number of directions the share of each piece's squared effect that is kept, ``[pieces]``.
    """

    inputs: Tensor
    cores: Mapping[int, Tensor]
    kept: Mapping[int, Tensor]

    def as_tensors(self) -> dict[str, Tensor]:
        """Every tensor by a name."""
        found = {"inputs": self.inputs}
        for count in self.cores:
            found[f"core {count}"], found[f"kept {count}"] = self.cores[count], self.kept[count]
        return found

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Cores | None:
        """The same, from what `as_tensors` named; ``None`` where there is nothing of it."""
        if "inputs" not in tensors:
            return None
        counts = [int(name.removeprefix("core ")) for name in tensors if name.startswith("core ")]
        held = ({count: tensors[f"{what} {count}"] for count in sorted(counts)} for what in ("core", "kept"))
        return cls(tensors["inputs"], *held)


def count_numbers(pieces: int, channels: int, taps: int) -> int:
    """How many numbers the cores of a layer's pieces have, and their directions."""
    if taps == 1:
        return 0
    tried = sum(directions for directions in DIRECTIONS if directions < channels)
    return pieces * taps * tried + min(channels, max(DIRECTIONS)) * channels


def fit_cores(rows: Tensor, weights: Tensor, into: Root, kernel: tuple[int, ...]) -> Cores:
    """The cores of a layer's pieces for every number of directions in `DIRECTIONS` that saves something.

    Args:
        rows: v of each piece, ``[pieces, in · kernel]``, of any length.
        weights: how much each piece counts for: its squared effect, ``[pieces]``.
        into: L_c, of the unfolded inputs.
        kernel: the kernel's sizes.
    """
    taps = math.prod(kernel)
    width = rows.shape[1] // taps
    lengths = into.times(rows).norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny).double()
    seen = rows.double() * (weights.to(rows).double().sqrt() / lengths)[:, None]
    diagonal, low = (one.reshape(width, taps, *one.shape[1:]) for one in into.summands())
    factor = _factor(diagonal[:, taps // 2], low[:, taps // 2])
    spread = factor.T @ seen.reshape(len(rows), width, taps).transpose(0, 1).reshape(width, -1)
    leading = torch.linalg.svd(spread, full_matrices=False).U[:, : max(DIRECTIONS)]
    count = leading.shape[1]
    inputs = torch.linalg.solve_triangular(factor.T, leading, upper=True).T
    inputs = inputs / inputs.norm(dim=1, keepdim=True)
    # The moments of what the taps of the directions see, and of those with what the rows see; in the order of
    # directions, so that fewer of them are a leading block.
    reached = torch.einsum("qi,itc->qtc", inputs, low).flatten(0, 1)
    own = torch.einsum("qi,it,pi->qpt", inputs, diagonal, inputs)
    gram = reached @ reached.T + torch.diag_embed(own).transpose(1, 2).reshape(count * taps, count * taps)
    wide = rows.double().reshape(len(rows), width, taps)
    with_rows = torch.einsum("qi,it,nit->qtn", inputs, diagonal, wide).flatten(0, 1)
    with_rows += reached @ (rows.double() @ low.flatten(0, 1)).T
    upper = torch.linalg.cholesky(gram, upper=True)
    along = torch.linalg.solve_triangular(upper.T, with_rows, upper=False)
    cores, kept = {}, {}
    for directions in DIRECTIONS:
        if directions > count or directions == width:
            break
        block = directions * taps
        part = along[:block]
        solved = torch.linalg.solve_triangular(upper[:block, :block], part, upper=True)
        cores[directions] = solved.T.float().reshape(len(rows), directions, *kernel).contiguous()
        kept[directions] = (part.square().sum(0) / lengths.square()).clamp(max=1.0).float()
    return Cores(inputs.float().contiguous(), cores, kept)


def _factor(diagonal: Tensor, low: Tensor) -> Tensor:
    """Cholesky's factor of the channels' own moment, where the kernel's middle lies."""
    moment = low @ low.T
    moment.diagonal().add_(diagonal)
    moment.diagonal().add_(1e-6 * moment.diagonal().mean())
    factor: Tensor = torch.linalg.cholesky(moment)
    return factor
