"""The measure: one for the base, nothing for the tuned model, and what running both pipelines shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from si_hub.adapter import Component, Layer
from si_hub.distill.methods.calibrated import Calibration
from si_hub.distill.request import Request
from si_hub.distill.running.fidelity import Fidelity, Measure, document_field, predictions
from si_hub.distill.running.runner import Runner
from si_hub.distill.running.trajectory import trajectories
from si_hub.errors import UsageError
from si_hub.storage.tensors import Tensor
from tests.miniature import INK, PROMPTS, open_pair, tune_attentions

#: A short survey: enough for every claim but the quality.
SHORT: dict[str, Any] = {"trajectories": 8, "states": 3, "sampling_steps": 5, "pieces": 16, "held_out": 8}


def test_the_measure_is_one_for_nothing_and_nothing_for_everything(tmp_path: Path) -> None:
    """Of an adapter that carries every difference whole."""
    tuned = tune_attentions(tmp_path, "ink")
    options = {**SHORT, "cache": tmp_path / "cache"}
    request = Request.of("calibrated", [tuned], size=10**5, dtype="fp16", prompts=PROMPTS, options=options)
    calibration = Calibration(open_pair(tuned), request)
    assert calibration.measure.of({}).error == pytest.approx(1.0, abs=1e-6)
    components: dict[str, Component] = {}
    for change in calibration.pair.changes:
        whole = {"weight_delta": change.delta(), "bias_delta": change.bias_delta()}
        leaves = {name: Tensor.from_torch(value) for name, value in whole.items() if value is not None}
        components.setdefault(change.component, Component()).layers[change.module] = Layer(leaves)
    assert calibration.measure.of(components).error < 1e-8


def test_errors_are_squares_over_the_base_s_in_all_and_in_each_fifth_of_the_noise() -> None:
    """Of numbers by hand: four states, two of them in one bucket."""
    runner = Runner(open_pair(INK))
    rows = torch.tensor([0.05, 0.5, 0.55, 0.9])
    state = trajectories(runner, ["a small red star"] * 4, [1, 2, 3, 4], steps=2)[0]
    states = replace(state, place=rows)
    tuned = predictions(runner, states, 4)
    base = tuned + torch.tensor([1.0, 2.0, 2.0, 4.0]).view(-1, 1, 1, 1)
    measure = Measure(runner, states, 2, tuned + 1.0, base + 1.0)
    found = measure.present()
    assert measure.base.tolist() == pytest.approx([1.0, 4.0, 4.0, 16.0], rel=1e-4)
    assert found.error == pytest.approx(4 / 25, rel=1e-4)
    assert found.by_bucket[1] is None
    assert found.by_bucket[3] is None
    assert [found.by_bucket[k] for k in (0, 2, 4)] == pytest.approx([1.0, 2 / 8, 1 / 16], rel=1e-4)
    assert found.states == 4


def test_a_tuned_model_that_predicts_what_the_base_predicts_is_refused() -> None:
    runner = Runner(open_pair(INK))
    states = trajectories(runner, ["a small red star"], [1], steps=2)[0]
    same = predictions(runner, states, 1)
    with pytest.raises(UsageError, match="predicts with these prompts what the base predicts"):
        Measure(runner, states, 1, same, same)


def test_the_document_s_field_has_the_buckets_that_hold_states() -> None:
    found = document_field(Fidelity(0.123456, (0.5, None, 0.25, None, 1.0), 12), 1000, seed=3)
    assert found["error"] == 0.1235
    assert found["by_timestep"] == [
        {"start": 0, "end": 200, "error": 0.5}, {"start": 400, "end": 600, "error": 0.25},
        {"start": 800, "end": 1000, "error": 1.0},
    ]  # fmt: skip
    assert (found["states"], found["seed"]) == (12, 3)
