"""The size that nobody asked for: a twentieth of the error where the limit allows it, else the knee."""

from __future__ import annotations

import math

import pytest

from si_hub.distill.budget.knee import FIDELITY, HALVINGS, Tried, choose_size, knee


def test_the_smallest_that_keeps_the_fidelity_is_taken_where_the_limit_holds_it() -> None:
    """An error of exp(-budget / 1000) is 0.05 at 2,996."""
    found = choose_size(100_000, lambda budget: budget, lambda budget: math.exp(-budget / 1000))
    exact = -1000 * math.log(1 - FIDELITY)
    assert exact <= found <= 1.03 * exact


def test_where_the_limit_is_too_small_the_knee_up_to_there_is_taken() -> None:
    """0.4 + 0.6 exp(-budget / 1000) never gets there; its slope is the chord's to 32,000 at 1000 ln 32 = 3,466."""
    found = choose_size(32_000, lambda budget: budget, lambda budget: 0.4 + 0.6 * math.exp(-budget / 1000))
    assert found == 4000


def test_no_budget_is_bought_twice() -> None:
    bought: list[int] = []

    def make(budget: int) -> int:
        bought.append(budget)
        return budget

    choose_size(32_000, make, lambda budget: 0.4 + 0.6 * math.exp(-budget / 1000))
    assert sorted(bought) == [32_000 >> k for k in range(HALVINGS, -1, -1)]


@pytest.mark.parametrize(
    ("errors", "chosen"),
    [
        ([0.9, 0.5, 0.45, 0.4], 2),
        ([0.75, 0.5, 0.25, 0.1], 4),
        ([0.875, 0.75, 0.5, 0.0], 8),
        ([1.0, 1.0, 1.0, 1.0], 8),
        ([1.2, 1.1, 1.3, 1.4], 8),
    ],
)
def test_the_knee_lies_deepest_below_the_line_to_the_end(errors: list[float], chosen: int) -> None:
    """By hand, budgets 1, 2, 4 and 8: of a straight curve, and of one that never falls, the end."""
    curve = [Tried(budget, budget, error) for budget, error in zip((1, 2, 4, 8), errors, strict=True)]
    assert knee(curve).budget == chosen
