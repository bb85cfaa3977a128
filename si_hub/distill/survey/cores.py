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

#: Channels that are looked at at once.
_ROWS = 256


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
    felt = into.times(rows)
    lengths = felt.norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    seen = (rows * (weights.to(rows).sqrt() / lengths)[:, None]).reshape(len(rows), width, taps)
    factor = _factor(into, width, taps, rows)
    spread = factor.T @ seen.transpose(0, 1).reshape(width, -1).double()
    leading = torch.linalg.svd(spread, full_matrices=False).U[:, : max(DIRECTIONS)]
    count = leading.shape[1]
    inputs = torch.linalg.solve_triangular(factor.T, leading, upper=True).T.to(rows)
    inputs = inputs / inputs.norm(dim=1, keepdim=True)
    # In the order of directions, so that fewer of them are a leading block.
    tapped = torch.einsum("qi,kl->qkil", inputs, torch.eye(taps).to(inputs)).reshape(count * taps, width * taps)
    basis, upper = torch.linalg.qr(into.times(tapped).T.double())
    along = basis.T @ felt.T.double()
    cores, kept = {}, {}
    for directions in DIRECTIONS:
        if directions > count or directions == width:
            break
        block = directions * taps
        part = along[:block]
        solved = torch.linalg.solve_triangular(upper[:block, :block], part, upper=True)
        cores[directions] = solved.T.float().reshape(len(rows), directions, *kernel).contiguous()
        kept[directions] = (part.square().sum(0) / lengths.double().square()).clamp(max=1.0).float()
    return Cores(inputs.float().contiguous(), cores, kept)


def _factor(into: Root, width: int, taps: int, like: Tensor) -> Tensor:
    """Cholesky's factor of the channels' own moment, where the kernel's middle lies; float64."""
    seen = torch.cat([into.times(_middles(range(first, min(first + _ROWS, width)), width, taps, like))
                      for first in range(0, width, _ROWS)])  # fmt: skip
    moment = (seen @ seen.T).double()
    moment.diagonal().add_(1e-6 * moment.diagonal().mean())
    factor: Tensor = torch.linalg.cholesky(moment)
    return factor


def _middles(channels: range, width: int, taps: int, like: Tensor) -> Tensor:
    """Unfolded inputs of which one channel is 1, where the kernel's middle lies, ``[channels, width · taps]``."""
    found = torch.zeros(len(channels), width * taps, device=like.device)
    places = torch.arange(len(channels), device=like.device)
    found[places, (places + channels.start) * taps + taps // 2] = 1.0
    return found
