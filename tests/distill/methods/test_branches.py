"""Batches of several branches' lessons."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from si_hub import format as file_format
from si_hub.distill.methods.branches import Imitations, Mixed
from si_hub.distill.running.runner import Runner
from si_hub.distill.running.states import States
from si_hub.distill.running.student import Student
from si_hub.distill.training.lessons import Lessons
from si_hub.training.accelerating import checkpoint_activations
from tests.distill.running.sampled import states
from tests.miniature import INK, join_styles, open_pair


def test_a_mixed_batch_can_be_cut_anywhere() -> None:
    def lessons(first: int) -> Lessons:
        rows = torch.arange(first, first + 3).float()
        return Lessons(States({"sample": rows}, {}, (None,) * 3, rows, rows), rows)

    batch = Mixed(
        [lessons(0), lessons(10)], tuple((branch, row) for branch in (0, 1) for row in range(3)), routed=False
    )
    cut = {branch: found.target.tolist() for branch, found in batch[2:5].by_branch().items()}
    assert cut == {0: [2.0], 1: [10.0, 11.0]}


@pytest.mark.parametrize("again", ["blocks", "files", "checkpoints"])
def test_what_is_computed_again_on_the_way_back_is_computed_with_its_own_branch(again: str, tmp_path: Path) -> None:
    adapter = file_format.read(join_styles(tmp_path))
    names, found = adapter.branches[:2], []
    for anew in (False, True):
        runner = Runner(open_pair(INK), memory=again if anew and again != "checkpoints" else "all")
        where = states(runner, 2)
        student = Student(runner, adapter.components, adapter.branches)
        branches: list[Any] = [
            SimpleNamespace(
                name=name, survey=SimpleNamespace(runner=runner), measure=SimpleNamespace(base=torch.ones(1))
            )
            for name in names
        ]
        lessons = [Lessons(where, torch.zeros_like(where.inputs["sample"])) for _ in names]
        task = Imitations(student, branches, (), 0, routed=False)
        mixed = Mixed(lessons, ((0, 0), (0, 1), (1, 0), (1, 1)), routed=False)
        with checkpoint_activations(runner.denoiser, anew and again == "checkpoints"), torch.enable_grad():
            task.loss(mixed).backward()  # type: ignore[no-untyped-call]
        found.append({name: leaf.grad for name, leaf in student.leaves.items() if leaf.grad is not None})
    whole, by_parts = found
    assert whole.keys() == by_parts.keys()
    for name, gradient in whole.items():
        assert torch.allclose(by_parts[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max())), name
