from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from si_hub.adapter import TRANSFORMS
from si_hub.tuner import operator

_QUIET = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
_SIZES = st.integers(1, 5)
_SEEDS = st.integers(0, 2**31)


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@_QUIET
@given(seed=_SEEDS, transform=st.sampled_from(TRANSFORMS), last=st.booleans(), sizes=st.tuples(*[_SIZES] * 4))
def test_every_transform_is_its_definition(seed: int, transform: str, last: bool, sizes: Any, delta_t: Any) -> None:
    u, dh = _random(seed, *sizes), _random(seed + 1, *sizes)
    got = operator.apply_transform(transform, u, dh, operator.inner_axes(4, last))
    torch.testing.assert_close(got, delta_t(transform, u, dh, last), rtol=1e-9, atol=1e-9)


@_QUIET
@given(seed=_SEEDS, transform=st.sampled_from(TRANSFORMS), last=st.booleans(), scale=st.sampled_from([1e-4, 1.0, 1e4]))
def test_every_transform_is_zero_at_zero(seed: int, transform: str, last: bool, scale: float) -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        u = (_random(seed, 2, 3, 4, 5) * scale).to(dtype)
        added = operator.apply_transform(transform, u, torch.zeros_like(u), operator.inner_axes(4, last))
        assert torch.equal(added, torch.zeros_like(u))
        assert torch.equal(u + added, u)


@_QUIET
@given(seed=_SEEDS, transform=st.sampled_from(TRANSFORMS))
def test_one_token_makes_every_transform_an_addition(seed: int, transform: str) -> None:
    u, dh = _random(seed, 3, 1, 5), _random(seed + 1, 3, 1, 5)
    assert torch.equal(operator.apply_transform(transform, u, dh, (1,)), dh)
    assert torch.equal(operator.apply_transform(transform, u[:, 0], dh[:, 0], ()), dh[:, 0])


def test_restyle_keeps_small_changes_of_large_spreads() -> None:
    u = _random(0, 1, 1000, 1).float() * 1e3
    dh = u * 1e-6
    got = operator.apply_transform("restyle", u, dh, (1,)).double()
    centred = u.double() - u.double().mean(1, keepdim=True)
    torch.testing.assert_close(got, centred * 1e-6, rtol=1e-3, atol=0)


@_QUIET
@given(seed=_SEEDS, transform=st.sampled_from(["restyle", "adain"]))
def test_restyle_and_adain_take_on_the_new_statistics(seed: int, transform: str) -> None:
    u, dh = _random(seed, 2, 40, 3) * 10, _random(seed + 1, 2, 40, 3) * 10
    new = u + operator.apply_transform(transform, u, dh, (1,))
    target = u + dh
    torch.testing.assert_close(new.std(1, unbiased=False), target.std(1, unbiased=False), rtol=1e-4, atol=1e-4)
    kept = target if transform == "adain" else u
    torch.testing.assert_close(new.mean(1), kept.mean(1))


@_QUIET
@given(seed=_SEEDS, n=st.integers(1, 5), rank=_SIZES, shape=st.lists(_SIZES, min_size=1, max_size=3), batch=_SIZES)
def test_mixing_is_the_weighted_sum_of_the_branches(seed: int, n: int, rank: int, shape: Any, batch: int) -> None:
    down, s = _random(seed, n * rank, *shape), _random(seed + 1, batch, n)
    mixed = operator.mix(down, s)
    for i in range(batch):
        expected = sum((s[i, k] * down[k * rank : (k + 1) * rank] for k in range(n)), torch.zeros(rank, *shape))
        torch.testing.assert_close(mixed[i], expected.double())
        torch.testing.assert_close(operator.mix(down, s[i]), expected.double())


@_QUIET
@given(seed=_SEEDS, n=st.integers(1, 5), rank=_SIZES, batch=_SIZES, tokens=_SIZES, last=st.booleans())
def test_weighing_is_the_weighted_sum_of_the_products(
    seed: int, n: int, rank: int, batch: int, tokens: int, last: bool
) -> None:
    products, s = _random(seed, batch, n, rank, tokens), _random(seed + 1, batch, n)
    expected = torch.einsum("bnrt,bn->brt", products, s)
    flat = products.reshape(batch, n * rank, tokens)
    got = operator.weigh(flat.mT if last else flat, s, last)
    torch.testing.assert_close(got.mT if last else got, expected)
    constant = operator.weigh(flat.mT if last else flat, s[0], last)
    expected = torch.einsum("bnrt,n->brt", products, s[0])
    torch.testing.assert_close(constant.mT if last else constant, expected)


@_QUIET
@given(seed=_SEEDS, n=st.integers(1, 6), width=_SIZES, dtype=st.sampled_from([torch.float16, torch.bfloat16]))
def test_routing_is_a_softmax_in_float32_also_under_autocast(seed: int, n: int, width: int, dtype: torch.dtype) -> None:
    pooled = _random(seed, 3, width).float()
    weight, bias = _random(seed + 1, n, width).to(dtype), _random(seed + 2, n).to(dtype)
    logits = pooled.double() @ weight.double().T + bias.double()
    expected = (logits.exp() / logits.exp().sum(-1, keepdim=True)).float()
    with torch.autocast("cpu", dtype=dtype):
        got = operator.route(pooled, weight, bias)
        fixed = operator.route(pooled, None, bias)
    assert got.dtype == fixed.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fixed, torch.softmax(bias.float(), -1))


def test_pooling_in_float16_does_not_overflow() -> None:
    x = torch.full((1, 4096, 3), 60000.0, dtype=torch.float16)
    assert torch.equal(operator.pool(x, (1,)), x[:, 0].float())


@_QUIET
@given(seed=_SEEDS, o1=_SIZES, i1=_SIZES, o2=_SIZES, i2=_SIZES, batch=_SIZES)
def test_a_kronecker_factor_is_never_expanded(seed: int, o1: int, i1: int, o2: int, i2: int, batch: int) -> None:
    kron, right, x = _random(seed, o1, i1), _random(seed + 1, o2, i2), _random(seed + 2, batch, i1 * i2)
    expected = x @ torch.kron(kron, right).T
    blocks = x.reshape(batch, i1, i2) @ right.T
    torch.testing.assert_close(operator.transpose_kron(blocks, kron, 0).flatten(1), expected)
    spatial = operator.transpose_kron(blocks.reshape(batch * i1, o2, 1, 1), kron, batch)
    torch.testing.assert_close(spatial.reshape(batch, -1), expected)


@pytest.mark.parametrize(
    ("branches", "instances", "positions", "constant", "expected"),
    [
        (4, 2, 1, False, False),  # a mixture costs as much as the products themselves
        (4, 2, 4096, False, True),
        (4, 8, 1, True, True),  # one mixture serves eight instances
        (4, 1, 1, True, False),
        (1, 8, 4096, False, False),
    ],
)
def test_mixing_pays_where_it_saves_multiplications(
    branches: int, instances: int, positions: int, constant: bool, expected: bool
) -> None:
    assert operator.mixing_pays(branches, instances, positions, constant) is expected
    rank_kernel_in = 7
    mixed = (1 if constant else instances) * branches * rank_kernel_in + instances * positions * rank_kernel_in
    assert (mixed < instances * positions * branches * rank_kernel_in) is expected


def test_a_device_without_autocast_is_no_error() -> None:
    """Shapes are worked out on the meta device, which torch refuses to ask about autocast."""
    meta = torch.device("meta")
    with pytest.raises(RuntimeError):
        torch.is_autocast_enabled(meta.type)
    assert not operator.is_autocast_on(meta)
    routed = operator.route(torch.empty(2, 3, device=meta), torch.empty(4, 3, device=meta), torch.empty(4, device=meta))
    assert routed.shape == (2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert operator.is_autocast_on(torch.device("cpu"))
