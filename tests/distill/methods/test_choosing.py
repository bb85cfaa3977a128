"""What a budget buys: parts as much as their coefficients say, cores where they remove more, never less than pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from si_hub.distill.budget.spend import spend
from si_hub.distill.methods.calibrated import Calibration


@pytest.mark.parametrize("directions", [0, 4])
def test_every_part_is_carried_as_much_as_its_coefficient_says(calibration: Calibration, directions: int) -> None:
    """As it is, or convolutions with cores between four directions of their inputs."""
    offers = calibration.chooser.offers(None)
    groups = [next((group for group in offer if group.directions == directions), offer[0]) for offer in offers]
    cored = 0
    columns = range(len(calibration.findings.columns))
    coefficients = 0.5 + torch.arange(len(columns)) / len(columns)
    made = calibration.chooser.make(list(columns), coefficients.double(), groups, [], "F16").components
    seen = set()
    for key, parts in calibration.findings.parts.items():
        own = {
            name: float(coefficients[column])
            for column, (home, name) in enumerate(calibration.findings.columns)
            if home == key
        }
        leaves = {name: tensor.torch() for name, tensor in made[key[0]].layers[key[1]].tensors.items()}
        if parts.down is not None and parts.up is not None:
            factors = torch.tensor([own[str(rank)] for rank in range(len(parts.down))])
            rows, down = parts.down, leaves["down.weight"].float()
            if parts.cores is not None and directions:
                cored += 1
                rows = torch.einsum("pq...,qi->pi...", parts.cores.cores[4], parts.cores.inputs[:4]).flatten(1)
                down = torch.einsum("pq...,qi->pi...", leaves["core.weight"].float(), down).flatten(1)
            expected = parts.up * factors @ rows
            found = leaves["up.weight"].float() @ down.flatten(1)
            assert float((found - expected).norm()) < 2e-3 * float(expected.norm())
        for name, leaf, part in (("weight", "weight_delta", parts.weight), ("bias", "bias_delta", parts.bias)):
            if part is not None:
                seen.add(name)
                assert torch.allclose(leaves[leaf].float(), part * own[name], rtol=1e-3, atol=1e-6)
    assert seen == {"weight", "bias"}
    assert bool(cored) == bool(directions)


def test_cores_leave_less_than_pairs_alone_at_the_same_size(calibration: Calibration) -> None:
    chooser = calibration.chooser
    best = chooser.choose(60_000, "F16", in_bytes=True)
    assert any(group.directions for group in best.groups)
    groups = chooser.groups("F16")
    plain = chooser.fit(spend(groups, chooser.scores, 60_000), groups, best.always, "F16")
    ours, theirs = (calibration.measure.of(choice.components).error for choice in (best, plain))
    assert ours < 0.9 * theirs
    assert best.predicted < plain.predicted


@pytest.mark.parametrize("size", [2_000, 8_000, 30_000])
def test_never_is_less_removed_than_by_pairs_alone(calibration: Calibration, size: int) -> None:
    chooser = calibration.chooser
    groups = chooser.groups("F16")
    pairs = spend(groups, chooser.scores, size)
    best = chooser.choose(size, "F16", in_bytes=True)
    removed = float(chooser.kept(best.groups)[best.columns] @ chooser.scores[best.columns])
    assert removed >= float(chooser.scores[pairs].sum()) * (1 - 1e-9)


def test_what_a_core_does_besides_its_piece_counts_as_error(calibration: Calibration) -> None:
    """Half of a piece kept: of a squared effect e, ½ e is missing and ¼ e is beside it."""
    chooser = calibration.chooser
    offer = next(offer for offer in chooser.offers(None) if len(offer) > 1)
    column = offer[0].columns[0]
    half = replace(offer[1], kept=tuple(0.5 for _ in offer[1].columns))
    target = chooser.findings.target.double()
    effect = chooser.findings.effects[:, column].double()
    made = chooser.make([column], torch.ones(1, dtype=torch.float64), [half], [], "F16")
    left = float((target - 0.5 * effect).square().sum() + 0.25 * effect.square().sum())
    assert made.predicted == pytest.approx(left / float(target.square().sum()), rel=1e-6)
