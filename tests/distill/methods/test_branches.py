"""Batches of several branches' lessons."""

from __future__ import annotations

import torch

from si_hub.distill.methods.branches import Mixed
from si_hub.distill.running.states import States
from si_hub.distill.training.lessons import Lessons


def test_a_mixed_batch_can_be_cut_anywhere() -> None:
    def lessons(first: int) -> Lessons:
        rows = torch.arange(first, first + 3).float()
        return Lessons(States({"sample": rows}, {}, (None,) * 3, rows, rows), rows)

    batch = Mixed(
        [lessons(0), lessons(10)], tuple((branch, row) for branch in (0, 1) for row in range(3)), routed=False
    )
    cut = {branch: found.target.tolist() for branch, found in batch[2:5].by_branch().items()}
    assert cut == {0: [2.0], 1: [10.0, 11.0]}
