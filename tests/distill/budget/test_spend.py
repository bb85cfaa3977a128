"""The budget against brute force, refitting against numpy's normal equations."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from si_hub.distill.budget.spend import NEAR, RIDGES, Group, predicted_error, refit, scores, smallest, spend
from si_hub.errors import UsageError

Draw = tuple[list[Group], torch.Tensor]


@st.composite
def offers(draw: st.DrawFn) -> Draw:
    """A few groups of parts with costs, and a score for each part."""
    groups, width = [], 0
    for _ in range(draw(st.integers(1, 4))):
        size = draw(st.integers(1, 3))
        groups.append(
            Group(tuple(range(width, width + size)), draw(st.integers(1, 9)), draw(st.sampled_from([0, 0, 5])))
        )
        width += size
    values = draw(st.lists(st.integers(0, 50), min_size=width, max_size=width))
    return groups, torch.tensor(values, dtype=torch.float64)


def cost(groups: list[Group], chosen: tuple[int, ...] | list[int]) -> int:
    return sum(
        group.opening + group.cost * held
        for group in groups
        if (held := sum(column in chosen for column in group.columns))
    )


@given(offers(), st.integers(0, 60))
def test_the_budget_is_never_exceeded_and_little_is_lost_to_the_best_choice(drawn: Draw, budget: int) -> None:
    """Greedy by error per cost is behind the best choice by less than its dearest step."""
    groups, values = drawn
    chosen = spend(groups, values, budget)
    assert cost(groups, chosen) <= budget
    parts = range(len(values))
    every = (some for size in range(len(values) + 1) for some in combinations(parts, size))
    best = max(float(values[list(some)].sum()) for some in every if cost(groups, some) <= budget)
    dearest = max((float(values[list(group.columns)].sum()) for group in groups), default=0.0)
    assert float(values[chosen].sum()) >= best - dearest


@given(offers())
def test_everything_is_carried_where_there_is_room_but_for_what_does_nothing(drawn: Draw) -> None:
    groups, values = drawn
    assert spend(groups, values, 10_000) == [column for column in range(len(values)) if values[column] > 0]


def test_what_an_entry_costs_is_borne_by_all_parts_that_share_it() -> None:
    lone = Group((0,), 10)
    shared = Group((1, 2, 3), 10, opening=20)
    values = torch.tensor([10.0, 15.0, 15.0, 15.0])
    # 45 for 50 is less a byte than 10 for 10, and one of the three alone costs 30.
    assert spend([lone, shared], values, 10) == [0]
    assert spend([lone, shared], values, 60) == [0, 1, 2, 3]
    assert spend([lone, shared], torch.tensor([8.0, 15.0, 15.0, 15.0]), 50) == [1, 2, 3]


def test_a_step_that_does_not_fit_leaves_room_for_smaller_ones() -> None:
    assert spend([Group((0,), 100), Group((1,), 10)], torch.tensor([1000.0, 1.0]), 50) == [1]


def problem(rows: int = 400, parts: int = 30, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Effects that have much in common, and the sum of all of them as the target."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(rows, 1, generator=generator)
    effects = torch.randn(rows, parts, generator=generator) * torch.linspace(2, 0.2, parts) + 0.5 * common
    return effects, effects.sum(1), torch.arange(rows) // 2


def test_refitting_is_one_of_the_ridges_of_the_normal_equations() -> None:
    effects, target, samples = problem()
    chosen = [0, 1, 2, 5, 9]
    found = refit(effects, target, chosen, samples).numpy()
    held, rest = effects[:, chosen].double().numpy(), target.double().numpy()
    gram = held.T @ held / len(held)
    penalty = np.diag(np.sqrt(np.diag(gram) * np.diag(gram).mean()))
    ridges = [
        1 + np.linalg.solve(gram + ridge * penalty, held.T @ (rest - held.sum(1)) / len(held)) for ridge in RIDGES
    ]
    assert any(np.allclose(found, one, rtol=1e-6) for one in ridges)


@pytest.mark.parametrize("rows", [400, 16])
def test_refitting_helps_on_samples_that_were_not_fitted(rows: int) -> None:
    effects, target, samples = problem()
    chosen = list(range(12))
    found = refit(effects[:rows], target[:rows], chosen, samples[:rows])
    fresh, wanted, _ = problem(seed=1)
    plain = predicted_error(fresh, wanted, chosen, torch.ones(12, dtype=torch.float64))
    assert predicted_error(fresh, wanted, chosen, found) < plain


def test_noise_alone_is_not_fitted() -> None:
    """Where the chosen parts say nothing about what is missing, each is taken as it is."""
    generator = torch.Generator().manual_seed(5)
    effects = torch.randn(300, 8, generator=generator)
    target = effects.sum(1) + 5 * torch.randn(300, generator=generator)
    found = refit(effects, target, list(range(8)), torch.arange(300))
    assert torch.allclose(found, torch.ones(8, dtype=torch.float64), atol=0.1)


def test_everything_chosen_is_taken_as_it_is() -> None:
    effects, target, samples = problem()
    found = refit(effects, target, list(range(30)), samples)
    assert torch.allclose(found, torch.ones(30, dtype=torch.float64), atol=1e-6)
    assert predicted_error(effects, target, list(range(30)), found) == pytest.approx(0, abs=1e-10)


def test_nothing_chosen_leaves_everything() -> None:
    effects, target, samples = problem()
    found = refit(effects, target, [], samples)
    assert found.shape == (0,)
    assert predicted_error(effects, target, [], found) == 1.0


def test_scores_are_mean_squares() -> None:
    assert scores(torch.tensor([[1.0, 2.0], [3.0, 0.0]])).tolist() == [5.0, 2.0]


def test_rounding_error_is_worth_nothing() -> None:
    # 3e-6 is what float32 leaves of ranks that a difference does not have; 3e-4 is little, and real.
    assert scores(torch.tensor([[1.0, 3e-6, 3e-4]]))[1] == 0.0
    assert spend([Group((0, 1, 2), 1)], scores(torch.tensor([[1.0, 3e-6, 3e-4]])), 10) == [0, 2]


@given(top=st.integers(100, 10**10), share=st.floats(1e-3, 0.9))
def test_the_smallest_budget_is_found_by_measuring(top: int, share: float) -> None:
    asked: list[int] = []

    def make(budget: int) -> int:
        asked.append(budget)
        return budget

    found = smallest(top, make, lambda budget: 1.0 - budget / top, share)
    assert found / top >= share * (1 - 1e-12)
    assert found <= 2 * NEAR * share * top + 1
    assert len(asked) <= 10


def test_what_is_out_of_reach_is_said_with_the_least_error() -> None:
    with pytest.raises(UsageError, match=r"expected 0.7000 or less, found 0.8"):
        smallest(1000, lambda budget: budget, lambda _: 0.3, 0.8)
