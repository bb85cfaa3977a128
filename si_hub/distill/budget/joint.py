"""Several weight differences of one layer with one up matrix between them: the best there is, in closed form.

With ``L_g L_gᵀ`` the second moment of the output gradients and ``L_k L_kᵀ`` that of the inputs under the k-th tuned
model, the difference ΔW_k is felt as ``X_k = L_gᵀ ΔW_k L_k``. Of all B of a rank, the leading left singular vectors U
of ``[√w_1 X_1, √w_2 X_2, …]`` (the eigenvectors of ``Σ w_k X_k X_kᵀ``) leave the least of ``Σ w_k ‖X_k‖²``, as
``B = L_g⁻ᵀ U`` with ``A_k = Uᵀ L_gᵀ ΔW_k``: given B, that is the best A_k whatever the inputs are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from si_hub.distill.survey.lowrank import singular
from si_hub.distill.survey.moments import Root

#: Output directions that count as leading where two differences are compared.
LEADING = 8


@dataclass(frozen=True, slots=True)
class Common:
    """What one layer's differences have in common.

    Attributes:
        up: B, ``[out, ranks]``.
        down: A_k, ``[differences, ranks, width]``.
        gains: of the weighted error, what each rank removes, ``[ranks]``.
        own: the same for each difference's own singular values, ``[differences, ranks]``.
        whole: weighted squared norm of each difference, ``[differences]``.
        overlap: share of the leading output directions that two have in common, ``[differences, differences]``.
    """

    up: Tensor
    down: Tensor
    gains: Tensor
    own: Tensor
    whole: Tensor
    overlap: Tensor


def common(
    deltas: Sequence[Tensor | None],
    inputs: Sequence[Root | None],
    output: Root,
    weights: Sequence[float],
    count: int,
    generator: torch.Generator | None = None,
) -> Common:
    """The common up matrix of a layer's differences.

    Args:
        deltas: ``[out, width]``; ``None`` where a tuned model left the layer as it was.
        inputs: L_k of each that is there.
        output: L_g.
        weights: w_k.
        count: ranks, at most.
        generator: of the randomized decomposition.
    """
    like = next(delta for delta in deltas if delta is not None)
    felt = [_as_felt(delta, into, output, like) for delta, into in zip(deltas, inputs, strict=True)]
    scaled = [weight**0.5 * one for weight, one in zip(weights, felt, strict=True)]
    left, sigma, _ = singular(torch.cat(scaled, 1), count, generator=generator)
    up = output.over(left.T).T
    outwards = [left.new_zeros(like.shape) if delta is None else output.times(delta.float().T).T for delta in deltas]
    down = torch.stack([left.T @ one for one in outwards])
    ranks = len(sigma)
    directions: list[Tensor | None] = []
    own = torch.zeros(len(deltas), ranks)
    for k, one in enumerate(scaled):
        if not one.any():
            directions.append(None)
            continue
        its, values, _ = singular(one, ranks, generator=generator)
        own[k, : len(values)] = values.square().cpu()
        directions.append(its[:, :LEADING])
    whole = torch.stack([one.square().sum() for one in scaled]).cpu()
    down, up = balance_jointly(down, up)
    return Common(up, down, sigma.square().cpu(), own, whole, overlaps(directions))


def _as_felt(delta: Tensor | None, into: Root | None, output: Root, like: Tensor) -> Tensor:
    """X_k; zeros where there is no difference, beside ``like``, which is one that is there."""
    if delta is None or into is None:
        return like.new_zeros(like.shape, dtype=torch.float32)
    return output.times(into.times(delta.float()).T).T


def overlaps(directions: Sequence[Tensor | None]) -> Tensor:
    """``‖U_kᵀ U_l‖² / columns`` of orthonormal columns: 1 for one space, columns / rows by chance, 0 for none."""
    found = torch.zeros(len(directions), len(directions))
    for k, one in enumerate(directions):
        for m, other in enumerate(directions):
            if one is not None and other is not None:
                found[k, m] = (one.T @ other).square().sum() / min(one.shape[1], other.shape[1])
    return found


def balance_jointly(down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The same products, each rank's column of B as long as its rows of the A_k are in the mean.

    Args:
        down: ``[differences, rank, width]``.
        up: ``[out, rank]``.
    """
    tiny = torch.finfo(torch.float32).tiny
    rows = down.square().sum(2).mean(0).sqrt()
    ratio = (up.norm(dim=0).clamp(min=tiny) / rows.clamp(min=tiny)).sqrt()
    return down * ratio[:, None], up / ratio
