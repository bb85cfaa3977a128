"""One up matrix for several differences: against eigenvectors in float64, and against what it has to beat."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from si_hub.distill.budget.joint import Common, balance_jointly, common, overlaps
from si_hub.distill.survey.moments import Dense

OUT, WIDTH, RANK = 12, 20, 5
WEIGHTS = (0.5, 0.3, 0.2)


def moments(width: int, seed: int) -> Dense:
    rows = torch.randn(400, width, generator=torch.Generator().manual_seed(seed)) * torch.linspace(0.2, 2.0, width)
    moment = Dense(width, torch.device("cpu"))
    moment.add(rows)
    return moment


def damped(moment: Dense) -> Tensor:
    """The moment that its root is of, float64."""
    mean = moment.tensors["sum"].double() / float(moment.tensors["count"])
    return mean + 1e-2 * mean.diagonal().mean() * torch.eye(len(mean), dtype=torch.float64)


def differences(count: int = 3, seed: int = 7) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(OUT, WIDTH, generator=generator) for _ in range(count)]


def found(deltas: list[Tensor | None], weights: tuple[float, ...] = WEIGHTS) -> tuple[Common, list[Dense], Dense]:
    inputs, output = [moments(WIDTH, 10 + k) for k in range(len(deltas))], moments(OUT, 3)
    return common(deltas, [one.root() for one in inputs], output.root(), weights, RANK), inputs, output


def test_the_up_matrix_spans_the_leading_eigenvectors_of_what_is_felt() -> None:
    deltas = differences()
    result, inputs, output = found(list(deltas))
    g = damped(output)
    values, vectors = torch.linalg.eigh(g)
    root = vectors @ values.sqrt().diag() @ vectors.T
    felt = sum(
        w * root @ d.double() @ damped(c) @ d.double().T @ root for w, d, c in zip(WEIGHTS, deltas, inputs, strict=True)
    )
    assert isinstance(felt, Tensor)
    eigenvalues, eigenvectors = torch.linalg.eigh(felt)
    leading = eigenvectors[:, -RANK:]
    torch.testing.assert_close(result.gains.double(), eigenvalues.flip(0)[:RANK], rtol=1e-3, atol=1e-6)
    basis = torch.linalg.qr(root @ result.up.double()).Q
    torch.testing.assert_close(basis @ basis.T, leading @ leading.T, rtol=0, atol=1e-4)


def test_given_the_up_matrix_every_down_matrix_is_the_best_there_is() -> None:
    deltas = differences()
    result, _, output = found(list(deltas))
    g, b = damped(output), result.up.double()
    for delta, down in zip(deltas, result.down, strict=True):
        best = torch.linalg.solve(b.T @ g @ b, b.T @ g @ delta.double())
        torch.testing.assert_close(down.double(), best, rtol=1e-3, atol=1e-4)


def test_what_the_ranks_remove_and_what_is_left_is_all_there_was() -> None:
    deltas = differences()
    result, inputs, output = found(list(deltas))
    g, left = damped(output), 0.0
    for weight, delta, down, c in zip(WEIGHTS, deltas, result.down, inputs, strict=True):
        rest = delta.double() - result.up.double() @ down.double()
        left += weight * float(torch.trace(g @ rest @ damped(c) @ rest.T))
    assert float(result.gains.sum()) + left == pytest.approx(float(result.whole.sum()), rel=1e-4)


def test_one_difference_alone_gets_its_own_singular_values() -> None:
    result, _, _ = found([differences(1)[0]], (1.0,))
    torch.testing.assert_close(result.gains, result.own[0], rtol=1e-4, atol=1e-6)


def test_a_model_that_left_the_layer_as_it_was_gets_zeros() -> None:
    deltas: list[Tensor | None] = [*differences(2), None]
    result, _, _ = found(deltas)
    assert not result.down[2].any()
    assert result.whole[2] == 0
    assert result.overlap[2].tolist() == [0.0, 0.0, 0.0]


def test_overlaps_are_one_for_the_same_space_and_zero_for_orthogonal_ones() -> None:
    identity = torch.eye(6)
    turned = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(0))).Q
    same, other = identity[:, :2] @ turned, identity[:, 2:4]
    torch.testing.assert_close(
        overlaps([identity[:, :2], same, other]), torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    )


def test_balancing_changes_no_product() -> None:
    generator = torch.Generator().manual_seed(0)
    up, down = 100 * torch.randn(5, 3, generator=generator), torch.randn(2, 3, 4, generator=generator)
    balanced_down, balanced_up = balance_jointly(down, up)
    torch.testing.assert_close(balanced_up @ balanced_down, up @ down)
    rows = balanced_down.square().sum(2).mean(0).sqrt()
    torch.testing.assert_close(balanced_up.norm(dim=0), rows)
