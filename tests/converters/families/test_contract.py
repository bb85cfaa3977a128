"""The condition on a module's slots: exactly those sets that have all, some of any, and nothing else."""

from __future__ import annotations

from itertools import chain, combinations

import pytest

from si_hub.converters.families.contract import Slots

ALL = ("a", "b", "c", "d", "e")
SUBSETS = [set(held) for held in chain.from_iterable(combinations(ALL, size) for size in range(len(ALL) + 1))]


@pytest.mark.parametrize(
    ("slots", "count"),
    [(Slots.of("a b"), 1), (Slots.of("a", may="c d"), 4), (Slots.of("a", "b c", "d"), 6), (Slots.of(may="a"), 2)],
)
def test_a_condition_holds_for_exactly_the_sets_that_it_describes(slots: Slots, count: int) -> None:
    expected = [
        held for held in SUBSETS
        if slots.has_all <= held and (not slots.has_any or held & slots.has_any)
        and held <= slots.has_all | slots.has_any | slots.may
    ]  # fmt: skip
    assert [held for held in SUBSETS if slots.objection(held) is None] == expected
    assert len(expected) == count


@pytest.mark.parametrize(
    ("held", "said"),
    [("b c", "lacks a"), ("a", "lacks any of b, c"), ("a b x y", "has x, y besides"), ("x", "lacks a")],
)
def test_an_objection_names_what_is_missing_first(held: str, said: str) -> None:
    assert Slots.of("a", "b c").objection(held.split()) == said
