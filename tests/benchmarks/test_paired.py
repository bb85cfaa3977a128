"""The paired test, against tables of Student's distribution."""

from __future__ import annotations

import pytest

from benchmarks.claim.paired import compare, two_sided


@pytest.mark.parametrize(
    ("t", "freedom", "p"),
    # Two-sided critical values as every table of the distribution prints them.
    [(12.706, 1, 0.05), (4.303, 2, 0.05), (3.182, 3, 0.05), (2.776, 4, 0.05), (4.604, 4, 0.01), (2.571, 5, 0.05),
     (2.228, 10, 0.05), (3.169, 10, 0.01)],
)  # fmt: skip
def test_tables_say_the_same(t: float, freedom: int, p: float) -> None:
    assert two_sided(t, freedom) == pytest.approx(p, rel=2e-3)
    assert two_sided(-t, freedom) == two_sided(t, freedom)


def test_by_hand() -> None:
    # Differences -1, -2, -3: mean -2, standard error 1 / √3, t = -3.4641, two degrees: p = 0.0742.
    found = compare([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])
    assert (found.mean, found.share) == (-2.0, -0.5)
    assert found.p == pytest.approx(0.0742, abs=1e-4)


def test_the_same_numbers_differ_by_nothing() -> None:
    assert compare([1.0, 2.0], [1.0, 2.0]).p == 1.0


def test_numbers_have_to_be_pairs() -> None:
    with pytest.raises(ValueError, match="longer"):
        compare([1.0, 2.0], [1.0, 2.0, 3.0])
