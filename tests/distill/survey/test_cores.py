"""Cores of a convolution's pieces against the normal equations in float64, and against pieces that need no more."""

from __future__ import annotations

import pytest
import torch

from si_hub.distill.survey.cores import DIRECTIONS, Cores, fit_cores
from si_hub.distill.survey.moments import Dense, Root

CPU = torch.device("cpu")
WIDTH, KERNEL, TAPS = 12, (3, 3), 9


@pytest.fixture
def into() -> Root:
    """Of inputs whose channels are felt in different degrees, and go together."""
    torch.manual_seed(0)
    held = Dense(WIDTH * TAPS, CPU)
    mixed = torch.randn(WIDTH * TAPS, WIDTH * TAPS) * 0.2 + torch.eye(WIDTH * TAPS)
    held.add(torch.randn(4000, WIDTH * TAPS) @ mixed * torch.linspace(0.3, 2, WIDTH * TAPS))
    return held.root()


def spread(found: Cores, directions: int) -> torch.Tensor:
    """Q ⊗ I, ``[directions · taps, in · taps]``, float64."""
    return torch.kron(found.inputs[:directions].double(), torch.eye(TAPS, dtype=torch.float64))


def test_each_core_is_the_nearest_to_its_row_as_it_is_felt(into: Root) -> None:
    torch.manual_seed(1)
    rows = torch.randn(5, WIDTH * TAPS)
    found = fit_cores(rows, torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0]), into, KERNEL)
    assert list(found.cores) == [count for count in DIRECTIONS if count < WIDTH]
    root = into.times(torch.eye(WIDTH * TAPS)).double()
    for directions, cores in found.cores.items():
        assert cores.shape == (5, directions, *KERNEL)
        basis = spread(found, directions) @ root
        wanted = torch.linalg.lstsq(basis.T, (rows.double() @ root).T).solution.T
        torch.testing.assert_close(cores.flatten(1).double(), wanted, rtol=1e-3, atol=1e-4)
        left = (rows.double() - cores.flatten(1).double() @ spread(found, directions)) @ root
        share = 1 - left.square().sum(1) / (rows.double() @ root).square().sum(1)
        torch.testing.assert_close(found.kept[directions].double(), share, rtol=1e-4, atol=1e-5)
    shares = torch.stack(list(found.kept.values()))
    assert bool((shares.diff(dim=0) >= -1e-6).all())


def test_pieces_that_see_few_directions_are_kept_whole_by_as_many(into: Root) -> None:
    torch.manual_seed(2)
    few = torch.randn(3, WIDTH)
    rows = torch.einsum("pqt,qi->pit", torch.randn(6, 3, TAPS), few).reshape(6, -1)
    found = fit_cores(rows, torch.ones(6), into, KERNEL)
    assert float(found.kept[2].min()) < 0.99
    torch.testing.assert_close(found.kept[3], torch.ones(6), rtol=0, atol=1e-5)
    made = found.cores[3].flatten(1).double() @ spread(found, 3)
    torch.testing.assert_close(made, rows.double(), rtol=1e-3, atol=1e-3)


def test_what_counts_for_most_has_the_first_directions(into: Root) -> None:
    torch.manual_seed(3)
    rows = torch.einsum("pt,pi->pit", torch.randn(2, TAPS), torch.randn(2, WIDTH)).reshape(2, -1)
    for heavy in (0, 1):
        weights = torch.tensor([1e-6, 1e-6])
        weights[heavy] = 1.0
        found = fit_cores(rows, weights, into, KERNEL)
        assert float(found.kept[1][heavy]) > 0.999
        assert float(found.kept[1][1 - heavy]) < 0.9


def test_they_come_back_from_their_tensors(into: Root) -> None:
    torch.manual_seed(4)
    found = fit_cores(torch.randn(2, WIDTH * TAPS), torch.ones(2), into, KERNEL)
    back = Cores.from_tensors({"down": torch.ones(1), **found.as_tensors()})
    assert back is not None
    assert list(back.cores) == list(found.cores)
    assert all(torch.equal(back.cores[count], found.cores[count]) for count in found.cores)
    assert all(torch.equal(back.kept[count], found.kept[count]) for count in found.kept)
    assert torch.equal(back.inputs, found.inputs)
    assert Cores.from_tensors({"down": torch.ones(1)}) is None
