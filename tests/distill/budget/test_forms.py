"""The forms of layers against every combination of them."""

from __future__ import annotations

from itertools import product

import torch
from hypothesis import given
from hypothesis import strategies as st

from si_hub.distill.budget.forms import choose_forms
from si_hub.distill.budget.spend import Group, spend

Drawn = tuple[list[list[Group]], torch.Tensor]


@st.composite
def offers(draw: st.DrawFn) -> Drawn:
    """Parts in groups, each with a form or two that are cheaper and keep less."""
    found: list[list[Group]] = []
    width = 0
    for _ in range(draw(st.integers(1, 4))):
        columns = tuple(range(width, width + draw(st.integers(1, 4))))
        width += len(columns)
        offer = [Group(columns, draw(st.integers(4, 12)), draw(st.integers(0, 4)))]
        for form in range(draw(st.integers(0, 2))):
            kept = tuple(draw(st.sampled_from([0.2, 0.6, 0.95])) for _ in columns)
            offer.append(Group(columns, draw(st.integers(1, 6)), draw(st.integers(0, 8)), kept, form + 1))
        found.append(offer)
    values = draw(st.lists(st.integers(0, 50), min_size=width, max_size=width))
    return found, torch.tensor(values, dtype=torch.float64)


def gained(groups: list[Group], scores: torch.Tensor, budget: int) -> float:
    chosen = set(spend(groups, scores, budget))
    worth = [dict(zip(group.columns, group.worth(scores).tolist(), strict=True)) for group in groups]
    return float(sum(value for held in worth for column, value in held.items() if column in chosen))


@given(offers(), st.integers(1, 80))
def test_little_is_lost_to_the_best_combination(drawn: Drawn, budget: int) -> None:
    """Behind the best by less than the dearest group removes, as the greedy budget itself is."""
    found, scores = drawn
    chosen = choose_forms(found, scores, budget)
    assert [group.columns for group in chosen] == [offer[0].columns for offer in found]
    assert all(group in offer for group, offer in zip(chosen, found, strict=True))
    best = max(gained(list(groups), scores, budget) for groups in product(*found))
    dearest = max(float(scores[list(offer[0].columns)].sum()) for offer in found)
    assert gained(chosen, scores, budget) >= best - dearest - 1e-9


@given(offers())
def test_where_there_is_room_everything_stays_as_it_is(drawn: Drawn) -> None:
    found, scores = drawn
    chosen = choose_forms(found, scores, 10**6)
    for group, offer in zip(chosen, found, strict=True):
        if float(scores[list(group.columns)].max()) > 0:
            assert group is offer[0]


def test_a_form_that_keeps_nearly_all_at_half_the_cost_is_taken() -> None:
    plain, cheap = Group((0, 1), 10), Group((0, 1), 5, 1, (0.9, 0.9), 2)
    other = [Group((2,), 8)]
    scores = torch.tensor([10.0, 9.0, 1.0])
    assert choose_forms([[plain, cheap], other], scores, 12) == [cheap, other[0]]
    assert choose_forms([[plain, cheap], other], scores, 100) == [plain, other[0]]
    assert choose_forms([[plain], other], scores, 12) == [plain, other[0]]
    assert choose_forms([], scores, 12) == []
