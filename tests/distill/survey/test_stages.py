"""The stages of a survey: each done once, in chunks that change nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from si_hub.distill import Distilled, distill
from si_hub.distill.methods.calibrated import Calibration
from si_hub.distill.request import Request
from tests.miniature import BASE, INK, PROMPTS, open_pair, tune_attentions

#: A short survey: enough for every claim but the quality.
SHORT: dict[str, Any] = {"trajectories": 8, "states": 3, "sampling_steps": 5, "pieces": 16, "held_out": 8}


Distil = Callable[..., Distilled]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def ink(tmp_path: Path, cache: Path) -> Distil:
    """Distil the miniature's ink after a short survey, which is made once."""

    def run(name: str = "ink.safetensors", **options: Any) -> Distilled:
        return distill(
            BASE, INK, output=tmp_path / name, method="calibrated", dtype="fp16", prompts=PROMPTS,
            **{**SHORT, "cache": cache, **options},
        )  # fmt: skip

    return run


def test_a_second_budget_runs_no_pipeline_but_to_measure(ink: Distil, monkeypatch: pytest.MonkeyPatch) -> None:
    ink("first.safetensors", size=60_000)

    def never(*_: Any) -> None:
        raise AssertionError("the survey is made again")

    monkeypatch.setattr("si_hub.distill.running.trajectory.trajectories", never)
    monkeypatch.setattr("si_hub.distill.survey.stages.Survey._backward", never)
    assert ink("second.safetensors", size=80_000).size > 60_000


def test_every_state_is_one_sample_whatever_the_batches_and_chunks(tmp_path: Path, cache: Path) -> None:
    """Folds part samples: two states under one number would be fitted to and checked with at once."""
    tuned = tune_attentions(tmp_path, "ink")
    few = {**SHORT, "trajectories": 5, "states": 4, "probes": 2, "batch": 2, "held_out": 1, "cache": cache}
    request = Request.of("calibrated", [tuned], size=10**5, prompts=PROMPTS, options=few)
    found = Calibration(open_pair(tuned), request).findings
    assert torch.bincount(found.samples).tolist() == [2] * 20
    assert len(torch.unique(found.target)) == 40
