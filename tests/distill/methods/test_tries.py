"""The plan's adapters, beside those that are then made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from si_hub.distill.methods import fitting
from si_hub.distill.methods.calibrated import Calibration, curve_points
from si_hub.distill.methods.tries import tries_of
from si_hub.distill.request import Request
from si_hub.distill.running.fidelity import Fidelity, Measure
from tests.distill.methods.surveys import SHORT
from tests.miniature import INK, PROMPTS, open_pair


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many adapters have been measured and fitted."""
    counts = {"measured": 0, "fitted": 0}
    measure, fit = Measure.of, fitting.fit_to_predictions

    def measured(self: Measure, *given: Any) -> Fidelity:
        counts["measured"] += 1
        return measure(self, *given)

    def fitted(*given: Any) -> Any:
        counts["fitted"] += 1
        return fit(*given)

    monkeypatch.setattr(Measure, "of", measured)
    monkeypatch.setattr(fitting, "fit_to_predictions", fitted)
    return counts


@pytest.mark.parametrize(
    ("wanted", "few"),
    [({"size": 100_000, "dtype": "fp16"}, True), ({"size": 100_000}, True), ({}, False)],
)
def test_no_more_adapters_are_made_than_told_and_not_far_fewer(
    wanted: dict[str, Any], few: bool, cache: Path, made: dict[str, int]
) -> None:
    request = Request.of("calibrated", [INK], prompts=PROMPTS, options={**SHORT, "cache": cache}, **wanted)
    told = tries_of(request)
    Calibration(open_pair(INK), request).fitted()
    assert told.measured / 3 <= made["measured"] <= told.measured
    assert told.fitted / 3 <= made["fitted"] <= told.fitted
    if few:
        assert (made["measured"], made["fitted"]) == (told.measured, told.fitted)


def test_a_curve_measures_its_points(cache: Path, made: dict[str, int]) -> None:
    said: list[str] = []
    request = Request.of(
        "calibrated", [INK], prompts=PROMPTS, tell=said.append,
        options={**SHORT, "held_out": 6, "passes": 0, "cache": cache / "of a curve"},
    )  # fmt: skip
    curve_points([open_pair(INK)], request, [60_000, 120_000, 240_000])
    assert made["measured"] == 3
    assert f", measuring {(2 + 3) * 6 * 5})" in said[0]
