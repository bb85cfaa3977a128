"""What several models share and what it saves: of known spectra, and of the same and other directions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from si_hub.distill.budget.filesize import Price
from si_hub.distill.budget.joint import LEADING, common
from si_hub.distill.budget.overlap import ERRORS, SharedLayer, Sharing, sharing_report
from si_hub.distill.survey.moments import Dense

OUT, WIDTH, RANK = 12, 20, 5


def moments(width: int, seed: int) -> Dense:
    rows = torch.randn(400, width, generator=torch.Generator().manual_seed(seed)) * torch.linspace(0.2, 2.0, width)
    moment = Dense(width, torch.device("cpu"))
    moment.add(rows)
    return moment


def differences(count: int = 3, seed: int = 7) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(OUT, WIDTH, generator=generator) for _ in range(count)]


def sharing(deltas: list[Tensor]) -> Sharing:
    identity = moments(WIDTH, 0), moments(OUT, 0)
    for moment in identity:
        moment.tensors = {"sum": torch.eye(len(moment.tensors["sum"])), "count": torch.ones(())}
    roots = [identity[0].root()] * len(deltas)
    both = common(list(deltas), roots, identity[1].root(), [1.0] * len(deltas), OUT)
    return sharing_report([f"m{k}" for k in range(len(deltas))], [SharedLayer(OUT, WIDTH, both)], Price("F32"))


def test_models_with_the_same_directions_are_cheaper_together_and_others_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(OUT, 3, generator=generator)).Q
    together = sharing([directions @ torch.randn(3, WIDTH, generator=generator) for _ in range(3)])
    apart = sharing(
        [torch.linalg.qr(torch.randn(OUT, 3, generator=generator)).Q @ torch.randn(3, WIDTH) for _ in range(3)]
    )
    assert together.chance == pytest.approx(LEADING / OUT)
    for cost in together.costs:
        assert cost.shared is not None
        assert cost.separate is not None
    at = {cost.error: cost for cost in together.costs}[0.05]
    assert at.shared is not None
    assert at.separate is not None
    assert at.shared < at.separate
    unlike = {cost.error: cost for cost in apart.costs}[0.05]
    assert unlike.shared is not None
    assert unlike.separate is not None
    assert unlike.shared / unlike.separate > at.shared / at.separate


def test_costs_are_those_of_the_ranks_that_reach_the_error() -> None:
    values = torch.tensor([4.0, 3.0, 2.0, 1.0])
    delta = torch.zeros(OUT, WIDTH)
    delta[range(4), range(4)] = values.sqrt()
    found = sharing([delta])
    # The damping scales all squares alike, 10 in all: to leave 5 or 3 of it takes two ranks, 2 or 1 three.
    ranks = {0.5: 2, 0.3: 2, 0.2: 3, 0.1: 3, 0.05: 4}
    for cost in found.costs:
        assert cost.separate == ranks[cost.error] * 4 * (OUT + WIDTH) + 300
        assert cost.shared == cost.separate + 150


def test_the_report_speaks_json_and_plain_text() -> None:
    found = sharing(differences())
    data = found.as_dict()
    assert data["branches"] == ["m0", "m1", "m2"]
    assert [row["error"] for row in data["bytes_at_error"]] == list(ERRORS)
    assert data["overlap"][0][0] == 1.0
    assert "two tuned models share" in found.as_text()
    assert f"{found.mean:.2f}" in found.lines()[0]
