"""The size that nobody asked for: as small as is close enough, else where more bytes stop paying, within a limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic

from si_hub.distill.budget.spend import Found, smallest

#: What an adapter without a wanted size is to keep of the tuned model's behaviour, if `SHARE` allows it.
FIDELITY = 0.95
#: Bytes that it may have, as a share of the tuned model's.
SHARE = 0.05
#: Halvings of the limit among which a knee is looked for.
HALVINGS = 5


@dataclass(frozen=True, slots=True)
class Tried(Generic[Found]):
    """What a budget bought, and the error that it leaves."""

    budget: int
    found: Found
    error: float


def choose_size(
    limit: int, make: Callable[[int], Found], error: Callable[[Found], float], fidelity: float = FIDELITY
) -> Found:
    """The smallest that keeps a fidelity; where not even the limit does, the knee of the curve up to there.

    Args:
        limit: the largest budget.
        make: what a budget buys.
        error: what that leaves of the error.
        fidelity: 1 − the error allowed.
    """
    made: dict[int, Tried[Found]] = {}

    def buy(budget: int) -> Tried[Found]:
        if budget not in made:
            found = make(budget)
            made[budget] = Tried(budget, found, error(found))
        return made[budget]

    if buy(limit).error <= 1.0 - fidelity:
        return smallest(limit, buy, lambda one: one.error, fidelity).found
    return knee([buy(limit >> k) for k in range(HALVINGS, -1, -1) if limit >> k]).found


def knee(curve: Sequence[Tried[Found]]) -> Tried[Found]:
    """Where a curve lies deepest below the straight line from nothing spent, which leaves 1, to its end.

    The kneedle of Satopää et al., "Finding a Kneedle in a Haystack" (ICDCSW 2011), on both axes from 0 to 1. Of two
    that are as deep the larger is taken, so that a straight curve ends at its end.

    Args:
        curve: by budget, the smallest first.
    """
    last = curve[-1]
    whole = 1.0 - last.error
    if whole <= 0.0:
        return last
    return max(curve, key=lambda one: ((1.0 - one.error) / whole - one.budget / last.budget, one.budget))
