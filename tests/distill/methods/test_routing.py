"""Routers in closed form: against Bayes' rule and numpy, and on the miniature against the even mix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from si_hub.distill.methods.routing import SHRINKAGE, _discriminants, posterior


def clouds(means: torch.Tensor, count: int, seed: int) -> list[torch.Tensor]:
    """Rows around each mean, correlated alike."""
    draw = torch.Generator().manual_seed(seed)
    width = means.shape[1]
    mixing = torch.randn(width, width, generator=draw)
    return [mean + torch.randn(count, width, generator=draw) @ mixing for mean in means]


@pytest.mark.parametrize(("branches", "width", "count"), [(2, 3, 40), (4, 12, 30), (3, 40, 8)])
def test_every_shrinkage_is_the_discriminant_of_its_covariance(branches: int, width: int, count: int) -> None:
    rows = clouds(torch.randn(branches, width, generator=torch.Generator().manual_seed(1)), count, 2)
    held = [one.double().numpy() for one in rows]
    means = np.stack([one.mean(0) for one in held])
    within = np.concatenate([one - mean for one, mean in zip(held, means, strict=True)])
    covariance = within.T @ within / len(within)
    for share, (weight, bias) in zip(SHRINKAGE, _discriminants(rows), strict=True):
        ridge = share * np.trace(covariance) / width * np.eye(width)
        precision = np.linalg.inv(covariance + ridge)
        # log N(x; μ_k, Σ) but for what all branches have in common.
        for x in np.random.default_rng(0).normal(size=(5, width)):
            logs = np.array([-0.5 * (x - mean) @ precision @ (x - mean) for mean in means])
            found = weight.numpy() @ x + bias.numpy()
            np.testing.assert_allclose(found - found[0], logs - logs[0], rtol=1e-6, atol=1e-6)


def test_of_two_gaussians_it_is_nearly_the_rule_of_bayes() -> None:
    """Means ±1, variance 4: the logit of x is x / 2, and 0.5 (1 + erf(1 / √8)) = 69.1 % of the rows are told right."""
    draw = torch.Generator().manual_seed(3)
    fresh = [mean + 2 * torch.randn(20_000, 1, generator=draw) for mean in (1.0, -1.0)]
    weight, bias = posterior([mean + 2 * torch.randn(4000, 1, generator=draw) for mean in (1.0, -1.0)])
    assert float(weight[0] - weight[1]) == pytest.approx(0.5, rel=0.15)
    right = [float(((one.double() @ weight.T + bias).argmax(1) == k).double().mean()) for k, one in enumerate(fresh)]
    assert sum(right) / 2 == pytest.approx(0.691, abs=0.01)


@given(st.integers(2, 5), st.integers(1, 20), st.integers(4, 40), st.integers(0, 2**31))
def test_what_tells_nothing_is_the_even_mix(branches: int, width: int, count: int, seed: int) -> None:
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    weight, bias = posterior([rows] * branches)
    even = torch.softmax(rows.double() @ weight.T + bias, 1)
    torch.testing.assert_close(even, torch.full_like(even, 1 / branches))


@given(st.integers(2, 5), st.integers(4, 20), st.integers(0, 2**31))
def test_rows_that_are_all_the_same_are_no_trouble(branches: int, count: int, seed: int) -> None:
    """A layer that is given the time, or one state: no variance within a branch."""
    draw = torch.Generator().manual_seed(seed)
    apart = [torch.randn(1, 6, generator=draw).expand(count, 6) for _ in range(branches)]
    for rows in (apart, apart[:1] * branches):
        weight, bias = posterior(rows)
        assert bool(weight.isfinite().all())
        assert bool(bias.isfinite().all())
