"""Ranks dealt out, against all ways there are to deal them."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from si_hub.training.dealing import deal_ranks, even_numbers, first_reads, share_of
from si_hub.training.surveying import Pull


def pull_of(strengths: list[float], into: int = 4, out: int = 3, seed: int = 0) -> Pull:
    count = len(strengths)
    reads = torch.linalg.qr(torch.randn(into, count, generator=torch.Generator().manual_seed(seed)))[0].T
    return Pull(torch.tensor(sorted(strengths, reverse=True)), reads, into + out)


def gain(pulls: dict[str, Pull], ranks: dict[str, int]) -> float:
    return sum(float(pulls[path].strengths[:rank].square().sum()) for path, rank in ranks.items())


@given(
    st.lists(st.lists(st.floats(0.1, 10), min_size=1, max_size=3), min_size=1, max_size=3), st.integers(0, 60),
)  # fmt: skip
def test_of_modules_of_one_size_the_best_is_found(strengths: list[list[float]], budget: int) -> None:
    pulls = {f"m{number}": pull_of(values) for number, values in enumerate(strengths)}
    found = deal_ranks(pulls, budget)
    assert sum(7 * rank for rank in found.values()) <= budget
    ways = product(*(range(len(pull.strengths) + 1) for pull in pulls.values()))
    best = max(gain(pulls, dict(zip(pulls, way, strict=True))) for way in ways if 7 * sum(way) <= budget)
    assert gain(pulls, found) == pytest.approx(best)


def test_what_costs_more_has_to_pull_more() -> None:
    pulls = {"wide": pull_of([2.0], into=40, out=20), "narrow": pull_of([1.0])}
    # 4 / 60 is less than 1 / 7.
    assert deal_ranks(pulls, 7) == {"narrow": 1}
    assert deal_ranks(pulls, 59) == {"narrow": 1}
    assert deal_ranks(pulls, 67) == {"narrow": 1, "wide": 1}


def test_branches_cost_a_down_matrix_each() -> None:
    pulls = {"one": pull_of([1.0, 0.5])}
    assert even_numbers(pulls, 1, branches=3) == 3 * 4 + 3
    assert deal_ranks(pulls, 29, branches=3) == {"one": 1}
    assert deal_ranks(pulls, 30, branches=3) == {"one": 2}


def test_branches_begin_with_directions_of_their_own() -> None:
    pull, random = pull_of([4.0, 3.0, 2.0]), torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    found = first_reads(pull, 2, 2, random)
    length = random.norm(dim=1).mean()
    torch.testing.assert_close(found[0], pull.reads[0] * length)
    torch.testing.assert_close(found[1], pull.reads[2] * length)
    torch.testing.assert_close(found[2], pull.reads[1] * length)
    # The second branch has one direction only: what was random stays.
    torch.testing.assert_close(found[3], random[3])


def test_a_kernel_keeps_its_shape() -> None:
    pull, random = pull_of([1.0], into=8), torch.randn(1, 2, 2, 2)
    assert first_reads(pull, 1, 1, random).shape == (1, 2, 2, 2)


def test_the_share_is_that_of_squares() -> None:
    pulls = {"a": pull_of([3.0, 1.0]), "b": pull_of([2.0])}
    assert share_of(pulls, {"a": 1}) == pytest.approx(9 / 14)
    assert share_of(pulls, {}) == 0.0
