"""The plan of a survey: calls as they are then made, and the time after ten of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from si_hub.distill.pair.matching import match_all
from si_hub.distill.request import Request
from si_hub.distill.survey.cache import survey_of
from si_hub.distill.survey.plan import Pace, duration
from tests.miniature import BASE, PROMPTS, tune_attentions

FEW: dict[str, Any] = {"trajectories": 2, "states": 3, "sampling_steps": 4, "held_out": 2, "pieces": 4, "probes": 2}


def test_calls_are_those_that_are_made_and_files_as_large_as_told(tmp_path: Path) -> None:
    said: list[str] = []
    tuned = tune_attentions(tmp_path, "ink")
    request = Request.of(
        "calibrated", [tuned], prompts=PROMPTS, options={**FEW, "cache": tmp_path / "cache"}, tell=said.append
    )
    survey, _ = survey_of(match_all(BASE, [tuned])[0], request)
    calls = 0

    def count(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        nonlocal calls
        calls += len(args[0] if args else kwargs["sample"])

    survey.runner.denoiser.register_forward_hook(count, with_kwargs=True)
    survey.findings()
    survey.measure()
    # Of two trajectories each: four steps of two calls; six states forward for moments, three times for effects; ten
    # states twice. Gradients are no calls here: of the plan's, one for each state's moments and two for its effects.
    assert calls == 4 * 4 * 2 + 6 + 3 * 6 + 2 * 10
    # An adapter would then be fitted in six passes with gradients over these states, after what the tuned model says.
    fitting = 6 * (1 + 6 * 2)
    assert said[0].startswith(
        f"plan: about {4 * 8 + 6 * 2 + 6 * 5 + 3 * 10 + fitting:,} calls of the denoiser (walking 32, "
    )
    assert f", fitting {fitting})" in said[0]
    assert [line for line in said if "s a call" in line]
    assert said[1] == "walking the tuned model's own sampling"
    kept = sum(file.stat().st_size for file in survey.work.folder.glob("*.safetensors"))
    told = said[0].split("; ")[1].split(" stay")[0]
    assert 0.3 * kept < {"kB": 1e3, "MB": 1e6}[told.split()[1]] * float(told.split()[0]) < 3 * kept


def test_the_time_is_told_after_ten_calls_and_not_again() -> None:
    said: list[str] = []
    ticks = iter(range(1000))
    layer = torch.nn.Linear(3, 3)
    Pace(layer, 400, said.append, clock=lambda: float(next(ticks)))
    for _ in range(30):
        layer(torch.zeros(2, 5, 3))
    # One tick for nine calls of two states: 400 / 18 s.
    assert said == ["0.056 s a call: about 22 s for all of them"]


@pytest.mark.parametrize(("seconds", "words"), [(12.4, "12 s"), (600, "10 minutes"), (9000, "2.5 hours")])
def test_time_is_said_as_people_do(seconds: float, words: str) -> None:
    assert duration(seconds) == words
