"""How much several tuned models have in common, and what one shared adapter and one each would cost at equal error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from si_hub.distill.budget.filesize import TYPICAL_ENTRY, Price
from si_hub.distill.budget.joint import LEADING, Common
from si_hub.foreign import join_safely, make_safe
from si_hub.report.text import size_text

#: Errors that costs are given for.
ERRORS = (0.5, 0.3, 0.2, 0.1, 0.05)
#: Entries that a layer adds to a file's header: down and up, or those and a router.
_ENTRIES = {"separate": 2, "shared": 3}


@dataclass(frozen=True, slots=True)
class SharedLayer:
    """What the report needs to know of a layer.

    Attributes:
        out, width: of its weight as a matrix.
        common: see `si_hub.distill.budget.joint`.
    """

    out: int
    width: int
    common: Common


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes that leave an error, to first order; ``None`` where more ranks would be needed than were looked at."""

    error: float
    shared: int | None
    separate: int | None


@dataclass(frozen=True, slots=True)
class Sharing:
    """The report.

    Attributes:
        branches: names of the tuned models.
        overlap: share of the leading output directions that two have in common, layers weighted by what is felt.
        chance: what unrelated models would have.
        costs: by error.
    """

    branches: tuple[str, ...]
    overlap: tuple[tuple[float, ...], ...]
    chance: float
    costs: tuple[Cost, ...]

    @property
    def mean(self) -> float:
        """Mean overlap of two different models."""
        count = len(self.branches)
        pairs = [self.overlap[k][m] for k in range(count) for m in range(count) if k != m]
        return sum(pairs) / len(pairs)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON data."""
        return {
            "branches": list(self.branches),
            "leading_directions": LEADING,
            "overlap": [[round(value, 4) for value in row] for row in self.overlap],
            "mean_overlap": round(self.mean, 4),
            "overlap_by_chance": round(self.chance, 4),
            "bytes_at_error": [
                {"error": cost.error, "shared": cost.shared, "separate": cost.separate} for cost in self.costs
            ],
        }

    def lines(self) -> list[str]:
        """The report for people."""
        count = len(self.branches)
        found = [
            f"of the {LEADING} leading output directions, two tuned models share {self.mean:.2f} "
            f"({self.chance:.2f} by chance)"
        ]
        for cost in self.costs:
            shared, separate = (_size(value) for value in (cost.shared, cost.separate))
            times = f", {cost.shared / cost.separate:.2f} times" if cost.shared and cost.separate else ""
            both = f"one shared adapter {shared}, {count} separate ones {separate}{times}"
            found.append(f"to leave {cost.error:g} of the error: {both}")
        return found

    def as_text(self) -> str:
        """`lines`, and every two models' overlap."""
        names = [make_safe(name, 60, keep_end=True) for name in self.branches]
        width = max(map(len, names))
        rows = [
            f"  {name:<{width}}  " + "  ".join(f"{value:.2f}" for value in row)
            for name, row in zip(names, self.overlap, strict=True)
        ]
        return join_safely([*self.lines(), "overlap:", *rows])


def _size(value: int | None) -> str:
    return "more than was looked at" if value is None else size_text(value)


def sharing_report(branches: Sequence[str], layers: Sequence[SharedLayer], price: Price) -> Sharing:
    """The report of all layers.

    Args:
        branches: names of the tuned models.
        layers: every layer that a low-rank pair can stand for.
        price: of the adapters' numbers.
    """
    count = len(branches)
    total = torch.zeros(count, count)
    weight = torch.zeros(count, count)
    chances: list[tuple[float, float]] = []
    for layer in layers:
        felt = (layer.common.whole[:, None] * layer.common.whole[None]).sqrt()
        total += felt * layer.common.overlap
        weight += felt
        chances.append((min(LEADING, layer.out) / layer.out, float(felt.sum())))
    overlap = total / weight.clamp(min=torch.finfo(torch.float32).tiny)
    chance = sum(share * felt for share, felt in chances) / max(sum(felt for _, felt in chances), 1e-30)
    shared = [_offers(one.common.gains, price.rank(one.out, one.width, count), "shared") for one in layers]
    separate = [_offers(own, price.rank(one.out, one.width), "separate") for one in layers for own in one.common.own]
    whole = float(sum(float(one.common.whole.sum()) for one in layers))
    costs = tuple(Cost(error, _bytes(shared, whole, error), _bytes(separate, whole, error)) for error in ERRORS)
    return Sharing(tuple(branches), tuple(tuple(row) for row in overlap.tolist()), chance, costs)


def _offers(gains: Tensor, cost: int, kind: str) -> list[tuple[float, float, int]]:
    """(gain per byte, gain, bytes) of each rank of a layer, never better than the one before it."""
    found: list[tuple[float, float, int]] = []
    best = float("inf")
    for place, gain in enumerate(gains.tolist()):
        size = cost + (_ENTRIES[kind] * TYPICAL_ENTRY if place == 0 else 0)
        best = min(best, gain / size)
        if gain > 0.0:
            found.append((best, gain, size))
    return found


def _bytes(layers: Sequence[Sequence[tuple[float, float, int]]], whole: float, error: float) -> int | None:
    """The bytes of the best ranks that leave so much of the whole."""
    left, spent = whole, 0
    for _, gain, size in sorted((offer for layer in layers for offer in layer), key=lambda offer: -offer[0]):
        if left <= error * whole:
            break
        left -= gain
        spent += size
    return spent if left <= error * whole else None
