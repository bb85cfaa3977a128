"""One budget for everything an adapter can hold: what removes most of the error for its cost comes first.

Works on numbers only: columns of *effects* (what each part of the change does to the projected prediction, one row a
sample) and what the parts cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from si_hub.errors import UsageError
from si_hub.words import label, setting

Found = TypeVar("Found")

#: Ridges that `refit` chooses from.
RIDGES = (0.5, 1.5, 5.0, 15.0, 100.0)
#: Parts of the samples that take turns at checking a ridge.
FOLDS = 4
#: A part whose effect is this small beside the largest is rounding error (a key's bias has none, and neither have ranks
#: that a difference lacks): it is worth nothing.
SILENT = 1e-5
#: Measurements that `smallest` may take, and how near to the smallest budget it comes.
TRIES, NEAR = 10, 1.03


@dataclass(frozen=True, slots=True)
class Group:
    """Parts that share an entry of the file: the pieces of one layer, or a single bias.

    Attributes:
        columns: of the effects.
        cost: of each part.
        opening: what the first part costs besides.
        kept: share of what each part does that is kept, by column; ``None`` where it is all.
        directions: of its pieces' cores; 0 where they are as they are.
    """

    columns: tuple[int, ...]
    cost: int
    opening: int = 0
    kept: tuple[float, ...] | None = None
    directions: int = 0

    def worth(self, scores: Tensor) -> Tensor:
        """The error that each part removes, ``[columns]``, float64."""
        found = scores[list(self.columns)].double()
        return found if self.kept is None else found * torch.tensor(self.kept, dtype=torch.float64)


def scores(effects: Tensor) -> Tensor:
    """Mean squared effect of each part ``[parts]``: the error that it removes where parts act independently.

    0 where that is rounding error.
    """
    found = effects.double().square().mean(0)
    return torch.where(found > SILENT**2 * max(found.tolist(), default=0.0), found, 0.0)


def spend(groups: Sequence[Group], scores: Tensor, budget: int) -> list[int]:
    """The parts to carry, in ascending order of columns.

    Each group offers its parts best first; steps of a group are joined until every later one is worth less than the
    one before, so that what a file entry costs is borne by all that it holds. Steps are taken by error per cost.

    Args:
        groups: what there is.
        scores: error that each part removes, ``[parts]``.
        budget: total cost, in the unit of the groups.
    """
    offers = [(value, cost, columns) for group in groups for value, cost, columns in _steps(group, scores)]
    # Sorting is stable: of equal steps the earlier group's comes first.
    offers.sort(key=lambda offer: -offer[0])
    spent, chosen, closed = 0, list[int](), set[int]()
    for value, cost, columns in offers:
        home = columns[0]
        if value <= 0.0 or home in closed:
            continue
        if spent + cost > budget:
            # A later step of this group presumes this one.
            closed.add(home)
            continue
        spent += cost
        chosen += columns[1]
    return sorted(chosen)


def _steps(group: Group, scores: Tensor) -> list[tuple[float, int, tuple[int, list[int]]]]:
    """The group's offers: error per cost falling, cost, and (the group's first column, columns)."""
    worth = dict(zip(group.columns, group.worth(scores).tolist(), strict=True))
    ordered = sorted(group.columns, key=lambda column: (-worth[column], column))
    steps: list[tuple[float, int, list[int]]] = []
    for place, column in enumerate(ordered):
        gain, cost, columns = worth[column], group.cost + (group.opening if place == 0 else 0), [column]
        while steps and gain / cost >= steps[-1][0] / steps[-1][1]:
            before = steps.pop()
            gain, cost, columns = before[0] + gain, before[1] + cost, before[2] + columns
        steps.append((gain, cost, columns))
    return [(gain / cost, cost, (group.columns[0], columns)) for gain, cost, columns in steps]


def refit(effects: Tensor, target: Tensor, chosen: Sequence[int], samples: Tensor) -> Tensor:
    """How much of each chosen part to take, so that together they also stand for what was not chosen.

    Minimises ``mean (target − effects · c)² + ridge · Σ √(score · mean score) · (c − 1)²``; the ridge is the one of
    `RIDGES` that predicts samples best that were not fitted. Parts act in the same direction far more often than not,
    and the missing ones can in part be replaced. Between a penalty by the score, which lets quiet parts go anywhere,
    and one that is the same for all, which holds the loud ones too tightly, this one is best (tests of few samples).

    Args:
        effects: ``[rows, parts]``.
        target: ``[rows]``, the effect of all of the change, of parts that cannot be chosen too.
        chosen: columns that are carried.
        samples: ``[rows]``, which sample a row is of; the rows of a sample are never in two folds.

    Returns:
        ``[len(chosen)]``, float64.
    """
    if not chosen:
        return torch.zeros(0, dtype=torch.float64)
    held = effects[:, list(chosen)].double()
    rest = target.double() - held.sum(1)
    fold = samples % FOLDS
    losses = torch.zeros(len(RIDGES), dtype=torch.float64)
    for turn in range(FOLDS):
        kept, left = fold != turn, fold == turn
        if kept.any() and left.any():
            for place, change in enumerate(_ridge_paths(held[kept], rest[kept])):
                losses[place] += (rest[left] - held[left] @ change).square().sum()
    best = int(losses.argmin())
    return 1.0 + _ridge_paths(held, rest)[best]


def _ridge_paths(held: Tensor, rest: Tensor) -> list[Tensor]:
    """The best change of the coefficients for each of `RIDGES`, by the smaller of the two Gram matrices."""
    loudness = held.square().mean(0)
    heard = loudness.sqrt() > SILENT * loudness.max().sqrt()
    scale = torch.where(heard, (loudness * loudness.mean()).pow(0.25), torch.ones_like(loudness))
    unit = torch.where(heard, held, torch.zeros_like(held)) / scale / len(held) ** 0.5
    wanted = rest / len(held) ** 0.5
    wide = unit.shape[0] <= unit.shape[1]
    values, vectors = torch.linalg.eigh(unit @ unit.T if wide else unit.T @ unit)
    along = vectors.T @ (wanted if wide else unit.T @ wanted)
    found = [vectors @ (along / (values.clamp(min=0.0) + ridge)) for ridge in RIDGES]
    return [(unit.T @ one if wide else one) / scale for one in found]


def predicted_error(effects: Tensor, target: Tensor, chosen: Sequence[int], coefficients: Tensor) -> float:
    """Share of the squared error that is left, to first order."""
    rest = target.double() - effects[:, list(chosen)].double() @ coefficients
    return float(rest.square().sum() / target.double().square().sum())


def fidelity_too_high(least: float, fidelity: float) -> UsageError:
    """The error for a fidelity that not even everything has, which leaves ``least``."""
    return UsageError(
        "no adapter of this method comes that close", key=label("fidelity"),
        expected=f"{math.floor((1 - least) * 1e4) / 1e4:.4f} or less", found=fidelity,
        hint=f"Look at more pieces of each layer with {setting('pieces', 'N')}, or train.",
    )  # fmt: skip


def smallest(top: int, make: Callable[[int], Found], error: Callable[[Found], float], fidelity: float) -> Found:
    """What the smallest budget buys that leaves no more error than a fidelity allows, by measuring, to `NEAR` of it.

    Args:
        top: the budget that buys everything.
        make: what a budget buys.
        error: what that leaves.
        fidelity: 1 − the error allowed.

    Raises:
        UsageError: not even everything comes that close.
    """
    best, allowed = make(top), 1.0 - fidelity
    if (least := error(best)) > allowed:
        raise fidelity_too_high(least, fidelity)
    low, high, at = 0.0, float(top), top / 4
    for _ in range(TRIES - 1):
        found = make(int(at))
        if error(found) <= allowed:
            high, best = at, found
        else:
            low = at
        if low and high / low < NEAR:
            break
        at = math.sqrt(low * high) if low else high / 4
    return best
