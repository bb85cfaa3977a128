"""How far to both sides of a point between two models the slope of the prediction is measured."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from si_hub.converters.numbers import as_float64
from si_hub.distill.pair.change import Change

#: Share of the way between the models, to each side: near enough that the slope is that at the point.
NEAR = 0.1
#: As far as there is a model.
FAR = 0.5
#: Steps of rounding (of 1) that weights must be apart, relative to their size, for the slope not to be of rounding.
ROUNDINGS = 1.3


def half_width(changes: Iterable[Change], held: torch.dtype) -> float:
    """The distance, by how large the difference of the models is beside the rounding of weights that are held.

    The weights to both sides are rounded, and the slope has that error by its width. The smaller the difference of the
    models, the more of it the rounding hides, and the farther apart predictions are nearly in a line.

    Args:
        changes: of the models; a few numbers of each are looked at, for all of it.
        held: dtype of the weights.

    Returns:
        A share from `NEAR` to `FAR` of the way from model to model.
    """
    eps = torch.finfo(held).eps
    if eps <= torch.finfo(torch.float32).eps:
        return NEAR
    apart, size = 0.0, 0.0
    for change in changes:
        if change.weight:
            base, tuned = (as_float64(side.sample()) for side in change.weight)
            count = change.weight[0].count
            apart += count * float(((tuned - base) ** 2).mean())
            size += count * float((base**2).mean())
    ratio = math.sqrt(apart / size) if size else 0.0
    return min(max(NEAR, ROUNDINGS * eps / ratio), FAR) if ratio else FAR
