"""Unfolded inputs and pieces of a change, against torch's own layers and float64 decompositions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from si_hub.distill.pair.change import Change
from si_hub.distill.survey.curvature import POSITIONS, Curvature, Felt, pieces, unfold_inputs
from si_hub.distill.survey.moments import Dense, Sketched

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 5),
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.Conv2d(3, 4, 1),
        nn.Conv2d(3, 4, (3, 1), padding=(1, 0), dilation=(2, 1)),
        nn.Conv2d(3, 4, 3, padding="same"),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
    ],
    ids=repr,
)
def test_unfolded_inputs_times_the_weight_are_the_output(layer: nn.Linear | nn.Conv2d) -> None:
    given = torch.randn(2, 7, 6) if isinstance(layer, nn.Linear) else torch.randn(2, 3, 8, 6)
    assert layer.bias is not None
    found = unfold_inputs(layer, given) @ layer.weight.flatten(1).T + layer.bias
    expected = layer(given)
    expected = expected if isinstance(layer, nn.Linear) else expected.flatten(2).transpose(1, 2)
    assert torch.allclose(found, expected, atol=1e-5)


def moments(inputs: torch.Tensor, gradients: torch.Tensor) -> tuple[Dense, Dense]:
    held = Dense(inputs.shape[1], CPU), Dense(gradients.shape[1], CPU)
    for one, rows in zip(held, (inputs, gradients), strict=True):
        one.add(rows)
    return held


def test_all_pieces_are_the_whole_change() -> None:
    torch.manual_seed(0)
    delta = torch.randn(6, 4, 3, 3)
    held = moments(torch.randn(300, 36) * torch.linspace(0.1, 2, 36), torch.randn(300, 6))
    down, up, _, _, cores = pieces(delta, *held, 99, torch.Generator())
    assert cores is not None
    assert down.shape == (6, 36)
    assert torch.allclose(up @ down, delta.flatten(1), atol=1e-3)


def test_the_leading_pieces_leave_least_of_what_is_felt() -> None:
    """The optimum of ‖G^½ (ΔW − W) C^½‖ over rank 3, by numpy's exact decomposition in float64."""
    torch.manual_seed(1)
    delta = torch.randn(12, 20)
    inputs, gradients = torch.randn(500, 20) * torch.linspace(0.1, 3, 20), torch.randn(500, 12) @ torch.randn(12, 12)
    held = moments(inputs, gradients)
    roots = [one.root().times(torch.eye(n)).double() for one, n in zip(held, (20, 12), strict=True)]
    down, up, seen, lengths, cores = pieces(delta, *held, 3, torch.Generator())
    assert cores is None
    # What a row of down and a column of up are felt as: together the singular values, each side by the damped moment.
    assert seen.tolist() == pytest.approx((down.double() @ roots[0]).norm(dim=1).tolist(), rel=1e-4)
    assert lengths.tolist() == pytest.approx((roots[1].T @ up.double()).norm(dim=0).tolist(), rel=1e-4)
    felt = roots[1].T @ (delta.double() - (up @ down).double()) @ roots[0]
    sigma = torch.linalg.svdvals(roots[1].T @ delta.double() @ roots[0])
    assert (seen * lengths).tolist() == pytest.approx(sigma[:3].tolist(), rel=1e-3)
    assert float(felt.square().sum()) == pytest.approx(float(sigma[3:].square().sum()), rel=1e-3)
    plain = torch.linalg.svd(delta.double())
    truncated = plain.U[:, :3] @ plain.S[:3].diag() @ plain.Vh[:3]
    assert float((roots[1].T @ (delta.double() - truncated) @ roots[0]).square().sum()) > float(felt.square().sum())


KINDS: dict[str, Callable[[int], Dense | Sketched]] = {
    "whole": lambda width: Dense(width, CPU), "sketched": lambda width: Sketched(width, CPU, columns=16),
}  # fmt: skip


@pytest.mark.parametrize("kinds", [("sketched", "whole"), ("whole", "sketched"), ("sketched", "sketched")])
@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (30, 90)])
def test_pieces_are_the_same_whether_their_roots_are_formed_or_not(
    kinds: tuple[str, str], shape: tuple[int, int]
) -> None:
    torch.manual_seed(2)
    out, width = shape
    delta = torch.randn(out, 8) @ torch.randn(8, width) + 0.1 * torch.randn(out, width)
    held = [KINDS[kind](size) for kind, size in zip(kinds, (width, out), strict=True)]
    held[0].add(torch.randn(400, 6) @ torch.randn(6, width) + 0.3 * torch.randn(400, width))
    held[1].add(torch.randn(400, 6) @ torch.randn(6, out) + 0.3 * torch.randn(400, out))
    roots = [one.root() for one in held]
    into, outer = (root.times(torch.eye(size)).double() for root, size in zip(roots, (width, out), strict=True))
    whole = outer.T @ delta.double() @ into
    found = Felt.of(delta, *roots)
    columns = torch.randn(width, 3)
    tolerance = 1e-5 * float(whole.norm())
    assert tuple(found.shape) == (out, width)
    assert torch.allclose(found.form().double(), whole, atol=tolerance)
    assert torch.allclose((found @ columns).double(), whole @ columns.double(), atol=tolerance)
    assert torch.allclose((found.T @ torch.eye(out)).double(), whole.T, atol=tolerance)
    down, up, *_ = pieces(delta, held[0], held[1], 4, torch.Generator().manual_seed(0))
    rest = outer.T @ (delta.double() - up.double() @ down.double()) @ into
    assert float(rest.square().sum()) == pytest.approx(float(torch.linalg.svdvals(whole)[4:].square().sum()), rel=2e-3)


def test_observed_moments_are_those_of_inputs_and_gradients() -> None:
    torch.manual_seed(3)
    layer, given, gradient = nn.Conv2d(2, 3, 3, padding=1), torch.randn(2, 2, 5, 5), torch.randn(2, 3, 5, 5)
    change = Change("unet", "conv", "conv", (3, 2, 3, 3), None, None)
    held = Curvature([change], 1000, CPU)
    held.observe(("unet", "conv"), layer, given, gradient)
    inputs, outputs = held.moments["unet", "conv"]
    rows = nn.functional.unfold(given, 3, padding=1).transpose(1, 2).reshape(-1, 18).double()
    assert torch.allclose(inputs.tensors["sum"].double(), rows.T @ rows, atol=1e-3)
    rows = gradient.permute(0, 2, 3, 1).reshape(-1, 3).double()
    assert torch.allclose(outputs.tensors["sum"].double(), rows.T @ rows, atol=1e-3)
    assert float(outputs.tensors["count"]) == 50

    twice = Curvature([change], 1000, CPU)
    kept = [{name: (lambda tensor=tensor: tensor) for name, tensor in held.as_tensors().items()}] * 2
    twice.add_up(kept)
    assert torch.allclose(twice.moments["unet", "conv"][0].tensors["sum"], 2 * inputs.tensors["sum"].double())


def test_large_pictures_count_at_some_positions_only() -> None:
    side = int(POSITIONS**0.5) + 8
    held = Curvature([Change("unet", "c", "conv", (2, 1, 1, 1), None, None)], 10, CPU)
    held.observe(("unet", "c"), nn.Conv2d(1, 2, 1), torch.ones(1, 1, side, side), torch.ones(1, 2, side, side))
    inputs, _ = held.moments["unet", "c"]
    assert float(inputs.tensors["count"]) == POSITIONS
    assert float(inputs.tensors["sum"]) == POSITIONS


def test_padding_of_which_nothing_is_felt_is_no_position() -> None:
    torch.manual_seed(4)
    layer, given, gradient = nn.Linear(3, 2), torch.randn(2, 5, 3), torch.randn(2, 5, 2)
    gradient[1, 2:] = 0.0
    held = Curvature([Change("t", "l", "linear", (2, 3), None, None)], 10, CPU)
    held.observe(("t", "l"), layer, given, gradient)
    inputs, outputs = held.moments["t", "l"]
    rows = torch.cat([given[0], given[1, :2]]).double()
    assert torch.allclose(inputs.tensors["sum"].double(), rows.T @ rows, atol=1e-5)
    assert float(inputs.tensors["count"]) == float(outputs.tensors["count"]) == 7
