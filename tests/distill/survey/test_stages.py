"""The stages of a survey: each done once, in chunks that change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from si_hub.distill import Distilled, distill
from si_hub.distill.methods.calibrated import Calibration
from si_hub.distill.request import Request
from si_hub.distill.survey.stages import HELD_OUT_STATES, STAGES, even_scale
from tests.miniature import BASE, PROMPTS, open_pair, tune_attentions

#: A short survey: enough for every claim but the quality.
SHORT: dict[str, Any] = {"trajectories": 8, "states": 3, "sampling_steps": 5, "pieces": 16, "held_out": 8}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_a_second_budget_runs_no_pipeline_but_to_measure(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = tune_attentions(tmp_path, "ink")

    def make(name: str, size: int) -> Distilled:
        return distill(
            BASE, tuned, output=tmp_path / name, method="calibrated", dtype="fp16", prompts=PROMPTS, size=size,
            cache=cache, **SHORT,
        )  # fmt: skip

    make("first", 30_000)

    def never(*_: Any) -> None:
        raise AssertionError("the survey is made again")

    monkeypatch.setattr("si_hub.distill.running.trajectory.trajectories", never)
    monkeypatch.setattr("si_hub.distill.survey.stages.Survey._backward", never)
    assert make("second", 60_000).size > 30_000


def test_every_state_is_one_sample_whatever_the_batches_and_chunks(tmp_path: Path, cache: Path) -> None:
    """Folds part samples: two states under one number would be fitted to and checked with at once."""
    tuned = tune_attentions(tmp_path, "ink")
    few = {**SHORT, "trajectories": 5, "states": 4, "probes": 2, "batch": 2, "held_out": 1, "cache": cache}
    request = Request.of("calibrated", [tuned], size=10**5, prompts=PROMPTS, options=few)
    found = Calibration(open_pair(tuned), request).findings
    assert torch.bincount(found.samples).tolist() == [2] * 20
    assert len(torch.unique(found.target)) == 40


def test_the_stages_of_either_way_fill_the_whole_bar_one_after_the_other() -> None:
    for left_out in ({"curvature"}, {"moments", "pieces"}):
        stages = [span for name, span in STAGES.items() if name not in left_out]
        ends = [begin + length for begin, length in stages]
        assert stages[0][0] == 0
        assert ends[-1] == 100
        assert all(begin >= end for (begin, _), end in zip(stages[1:], ends, strict=False))


def test_adapters_are_measured_on_states_of_every_held_out_prompt(tmp_path: Path, cache: Path) -> None:
    few = {**SHORT, "trajectories": 2, "states": 1, "held_out": 3, "cache": cache}
    tuned = tune_attentions(tmp_path, "ink")
    survey = Calibration(
        open_pair(tuned), Request.of("calibrated", [tuned], rank=1, prompts=PROMPTS, options=few)
    ).survey
    measure = survey.measure()
    assert len(measure.states) == 3 * HELD_OUT_STATES
    assert set(measure.states.prompts) - {None} <= set(survey.held_out)
    assert not set(survey.held_out) & set(survey.prompts)


def test_what_says_hardly_any_noise_keeps_a_share_of_its_weight() -> None:
    scale = torch.tensor([0.0, 0.6, 1.0])
    assert even_scale(scale).square().tolist() == pytest.approx([0.3, 0.7 * 0.36 + 0.3, 1.0])
