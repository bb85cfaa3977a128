"""Roots of second moments, whole and sketched, against float64 by hand."""

from __future__ import annotations

import pytest
import torch

from si_hub.distill.survey.moments import DAMPING, SKETCH, Dense, Moment, Sketched, dense_limit, moment

CPU = torch.device("cpu")


def rows_of(width: int, count: int, directions: int, seed: int = 0) -> torch.Tensor:
    """Rows that lie near a few directions."""
    generator = torch.Generator().manual_seed(seed)
    inner = torch.randn(count, directions, generator=generator) * torch.linspace(3.0, 0.5, directions)
    return inner @ torch.randn(directions, width, generator=generator) + 0.1 * torch.randn(
        count, width, generator=generator
    )


def damped(rows: torch.Tensor) -> torch.Tensor:
    wide = rows.double()
    mean = wide.T @ wide / len(wide)
    return mean + DAMPING * mean.diagonal().mean() * torch.eye(len(mean), dtype=torch.float64)


def square(one: Moment, width: int) -> torch.Tensor:
    """L Lᵀ, from what L does to the unit rows."""
    matrix = one.root().times(torch.eye(width)).double()
    return matrix @ matrix.T


def test_the_root_of_a_whole_moment_squares_to_the_damped_mean() -> None:
    rows = rows_of(24, 200, 6)
    held = Dense(24, CPU)
    held.add(rows[:50])
    held.add(rows[50:])
    expected = damped(rows)
    assert torch.allclose(square(held, 24), expected, atol=1e-4 * float(expected.abs().max()))


def test_a_sketch_of_few_directions_squares_to_the_damped_mean() -> None:
    rows = rows_of(96, 400, 5)
    held = Sketched(96, CPU, columns=24)
    held.add(rows)
    expected = damped(rows)
    error = (square(held, 96) - expected).norm() / expected.norm()
    assert float(error) < 2e-3


def test_a_sketch_keeps_the_diagonal_whatever_the_rest() -> None:
    rows = torch.randn(4000, 64, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.1, 3, 64)
    held = Sketched(64, CPU, columns=4)
    held.add(rows)
    assert torch.allclose(square(held, 64).diagonal(), damped(rows).diagonal(), rtol=0.02)


@pytest.mark.parametrize("held", [Dense(40, CPU), Sketched(40, CPU, columns=12)], ids=["whole", "sketched"])
def test_over_undoes_times(held: Moment) -> None:
    held.add(rows_of(40, 300, 8))
    root, some = held.root(), torch.randn(7, 40, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(root.over(root.times(some)), some, atol=1e-3)


@pytest.mark.parametrize("held", [Dense(40, CPU), Sketched(40, CPU, columns=12)], ids=["whole", "sketched"])
def test_a_root_is_the_same_matrix_whatever_is_asked_of_it(held: Moment) -> None:
    held.add(rows_of(40, 300, 8, seed=4))
    root = held.root()
    matrix = root.times(torch.eye(40)).double()
    assert torch.allclose(root.times_turned(torch.eye(40)).double(), matrix.T, atol=1e-5)
    diagonal, factor = root.summands()
    assert (diagonal.dtype, factor.dtype) == (torch.float64, torch.float64)
    assert torch.allclose(diagonal.diag() + factor @ factor.T, matrix @ matrix.T, rtol=1e-4, atol=1e-5)


def test_a_sketch_of_less_than_it_has_room_for_is_exact() -> None:
    """Three directions and 24 columns: what is left of the others is rounding, and no direction."""
    rows = torch.randn(200, 3, generator=torch.Generator().manual_seed(5)) @ torch.eye(3, 60)
    held = Sketched(60, CPU, columns=24)
    held.add(rows)
    assert torch.allclose(square(held, 60), damped(rows), rtol=1e-4, atol=1e-5)
    assert held.root().summands()[1].shape == (60, 3)


@pytest.mark.parametrize("kind", [Dense, Sketched])
def test_sums_of_two_runs_are_the_sum_of_all_rows(kind: type[Dense | Sketched]) -> None:
    rows = rows_of(32, 120, 4)
    runs = [kind(32, CPU) for _ in range(3)]
    runs[0].add(rows)
    runs[1].add(rows[:70])
    runs[2].add(rows[70:])
    for name, whole in runs[0].tensors.items():
        assert torch.allclose(runs[1].tensors[name] + runs[2].tensors[name], whole, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", [Dense, Sketched])
def test_nothing_seen_is_a_root_that_changes_nothing(kind: type[Dense | Sketched]) -> None:
    some = torch.randn(3, 300, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(kind(300, CPU).root().times(some), some, atol=1e-3)


def test_wide_moments_are_sketched_and_narrow_ones_are_not() -> None:
    assert isinstance(moment(SKETCH, 0, CPU), Dense)
    assert isinstance(moment(SKETCH + 1, 0, CPU), Sketched)
    assert isinstance(moment(5120, 5120, CPU), Dense)


def test_the_limit_is_the_widest_that_fits_with_all_narrower_ones() -> None:
    assert dense_limit([10, 20, 30], 4 * (100 + 400)) == 20
    assert dense_limit([10, 20, 20], 4 * (100 + 400 + 399)) == 10
    assert dense_limit([], 100) == 0
