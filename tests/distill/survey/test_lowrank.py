"""The randomized decomposition against numpy's in float64."""

from __future__ import annotations

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from si_hub.distill.survey.lowrank import balance, singular, truncate


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def optimum(delta: torch.Tensor, rank: int) -> float:
    """Norm of what the best matrix of the rank leaves (Eckart and Young)."""
    sigma = numpy.linalg.svd(delta.double().flatten(1).numpy(), compute_uv=False)
    return float(numpy.sqrt((sigma[rank:] ** 2).sum()))


def left(delta: torch.Tensor, rank: int, seed: int = 0) -> float:
    down, up = truncate(delta, rank, generator=torch.Generator().manual_seed(seed))
    return float((delta.double().flatten(1) - up.double() @ down.double().flatten(1)).norm())


SPECTRA = {
    "noise": lambda rows, columns: draw(rows, columns),
    "low rank and noise": lambda rows, columns: draw(rows, 8) @ draw(8, columns, seed=1) + 0.3 * draw(rows, columns),
    "power law": lambda rows, columns: draw(rows, columns) * torch.arange(1, columns + 1.0) ** -0.7,
}


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", [(320, 320), (320, 900), (900, 320)])
@pytest.mark.parametrize("rank", [4, 32])
def test_the_residual_is_that_of_the_optimal_truncation(spectrum: str, shape: tuple[int, int], rank: int) -> None:
    delta = SPECTRA[spectrum](*shape)
    assert left(delta, rank) <= 1.005 * optimum(delta, rank)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 90), columns=st.integers(1, 90), rank=st.integers(1, 40), seed=st.integers(0, 99),
    zero=st.booleans(),
)  # fmt: skip
def test_any_shape_and_rank_has_the_optimal_residual(rows: int, columns: int, rank: int, seed: int, zero: bool) -> None:
    delta = draw(rows, columns, seed=seed) * (not zero)
    rank = min(rank, rows, columns)
    down, up = truncate(delta, rank, generator=torch.Generator().manual_seed(seed))
    assert down.shape == (rank, columns)
    assert up.shape == (rows, rank)
    assert torch.isfinite(down).all()
    assert torch.isfinite(up).all()
    assert left(delta, rank) <= 1.005 * optimum(delta, rank) + 1e-5 * float(delta.norm())


@pytest.mark.parametrize("size", [8, 12, 16])
@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1.0, 1e3])
def test_ranks_that_a_matrix_lacks_are_zeros(size: int, scale: float) -> None:
    # Such as a merged LoRA's: its Gram matrix has eigenvalues below zero, by rounding.
    delta = scale * draw(size, 1, seed=1) @ draw(1, size, seed=2)
    down, up = truncate(delta, size)
    assert torch.isfinite(down).all()
    assert torch.isfinite(up).all()
    assert torch.allclose(up @ down, delta, rtol=1e-5, atol=1e-6 * float(delta.abs().max()))


def test_a_convolution_is_unfolded_and_its_kernel_stays_with_the_down_matrix() -> None:
    delta = draw(64, 16, 3, 3)
    down, up = truncate(delta, 64)
    assert down.shape == (64, 16, 3, 3)
    assert torch.allclose(torch.einsum("or,rikl->oikl", up, down), delta, atol=1e-5)


@pytest.mark.parametrize("shape", [(200, 300), (20, 300)])
def test_both_factors_carry_the_same_energy_in_every_direction(shape: tuple[int, int]) -> None:
    down, up = truncate(draw(*shape), 8)
    sigma = torch.tensor(numpy.linalg.svd(draw(*shape).numpy(), compute_uv=False)[:8])
    assert torch.allclose(up.norm(dim=0), sigma.sqrt(), rtol=1e-2)
    assert torch.allclose(up.norm(dim=0), down.norm(dim=1), rtol=1e-4)


def test_one_outlier_is_kept_whole() -> None:
    # Peers clamp the largest entries, which costs exactly what mattered most.
    delta = 0.01 * draw(256, 256)
    delta[3, 5] = 100.0
    down, up = truncate(delta, 1)
    assert float((up @ down)[3, 5]) == pytest.approx(100.0, rel=1e-4)


def test_the_same_seed_gives_the_same_factors() -> None:
    delta = draw(200, 200)
    one, other = (truncate(delta, 8, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_singular_values_are_those_of_numpy() -> None:
    delta = SPECTRA["power law"](300, 200)
    _, sigma, _ = singular(delta, 5)
    wanted = numpy.linalg.svd(delta.double().numpy(), compute_uv=False)[:5]
    assert sigma.numpy() == pytest.approx(wanted, rel=1e-4)


def test_balanced_factors_have_equal_norms_and_the_same_product() -> None:
    torch.manual_seed(2)
    down, up = torch.randn(3, 10) * 100, torch.randn(7, 3) / 50
    even = balance(down, up)
    assert torch.allclose(even[1] @ even[0], up @ down, rtol=1e-4, atol=1e-4)
    assert torch.allclose(even[0].norm(dim=1), even[1].norm(dim=0), rtol=1e-4)
