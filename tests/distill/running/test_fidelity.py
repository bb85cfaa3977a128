"""The measure: one for the base, nothing for the tuned model, and what running both pipelines shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from si_hub.distill.methods.calibrated import Calibration
from si_hub.distill.request import Request
from tests.miniature import INK, PROMPTS, open_pair

#: A short survey: enough for every claim but the quality.
SHORT: dict[str, Any] = {"trajectories": 8, "states": 3, "sampling_steps": 5, "pieces": 16, "held_out": 8}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def calibration(cache: Path) -> Calibration:
    options = {**SHORT, "cache": cache}
    request = Request.of("calibrated", [INK], size=10**5, dtype="fp16", prompts=PROMPTS, options=options)
    return Calibration(open_pair(INK), request)


def test_the_measure_is_one_for_nothing_and_nothing_for_everything(calibration: Calibration) -> None:
    assert calibration.measure.of({}).error == pytest.approx(1.0, abs=1e-6)
    keys = [(change.component, change.module) for change in calibration.pair.changes]
    whole = {
        (c.component, c.module): {"weight_delta": c.delta(), "bias_delta": c.bias_delta()}
        for c in calibration.pair.changes
    }
    components = calibration._components([], torch.zeros(0), [])
    assert components == {}
    from si_hub.adapter import Component, Layer
    from si_hub.storage.tensors import Tensor

    for key in keys:
        leaves = {name: Tensor.from_torch(value) for name, value in whole[key].items() if value is not None}
        components.setdefault(key[0], Component()).layers[key[1]] = Layer(leaves)
    assert calibration.measure.of(components).error < 1e-8
