"""Tests of paired differences over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True)
class Difference:
    """One method against another, seed by seed.

    Args:
        mean: of the differences, own less other.
        share: the mean divided by the other's mean.
        p: two-sided p value of Student's paired t test; 1 where nothing differs.
    """

    mean: float
    share: float
    p: float


def compare(own: Sequence[float], other: Sequence[float]) -> Difference:
    """Two methods' numbers under the same seeds.

    Raises:
        ValueError: they have not equally many, or fewer than two.
    """
    gaps = [mine - theirs for mine, theirs in zip(own, other, strict=True)]
    mean, spread = fmean(gaps), stdev(gaps)
    if spread == 0.0:
        return Difference(mean, mean / fmean(other), 1.0 if mean == 0.0 else 0.0)
    return Difference(mean, mean / fmean(other), two_sided(mean / (spread / math.sqrt(len(gaps))), len(gaps) - 1))


def two_sided(t: float, freedom: int) -> float:
    """P(|T| ≥ |t|) of Student's distribution with ``freedom`` degrees, by its finite series (A&S 26.7.3, 26.7.4)."""
    angle = math.atan(abs(t) / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    if freedom % 2:
        term, total = cosine, cosine if freedom > 1 else 0.0
        for k in range(3, freedom - 1, 2):
            term *= cosine * cosine * (k - 1) / k
            total += term
        inside = 2.0 / math.pi * (angle + sine * total)
    else:
        term = total = 1.0
        for k in range(2, freedom - 1, 2):
            term *= cosine * cosine * (k - 1) / k
            total += term
        inside = sine * total
    return max(0.0, 1.0 - inside)
