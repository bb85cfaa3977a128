"""Curves, steps and schedules: numbers by hand, and one error for each thing that is wrong."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import si_hub
from si_hub import format
from si_hub.errors import ConversionRefused, DocumentError, UsageError
from si_hub.schedule import Instant, StepWeights, WeightCurve, as_timed, at, check_constant, read_schedule

GOLDEN = Path(__file__).parent / "golden" / "1.0" / "scheduled.safetensors"


@pytest.mark.parametrize(("step", "steps", "progress"), [(0, 5, 0.0), (1, 5, 0.25), (4, 5, 1.0), (0, 1, 0.0)])
def test_progress_is_0_in_the_first_step_and_1_in_the_last(step: int, steps: int, progress: float) -> None:
    assert Instant(step, steps).progress == progress


@pytest.mark.parametrize(("sigma", "weight"), [(0, 0.25), (0.5, 0.25), (1, 0.5), (1.5, 0.75), (2, 1.0), (99, 1.0)])
def test_a_curve_is_linear_between_its_points_and_constant_outside(sigma: float, weight: float) -> None:
    curve = WeightCurve(((0.5, 0.25), (2.0, 1.0)), "sigma")
    assert at(curve, Instant(0, 9, sigma)) == pytest.approx(weight, abs=1e-15)
    assert WeightCurve(((3.0, 0.5),))(Instant(0, 2)) == 0.5


def test_a_curve_over_progress_follows_the_steps_whatever_their_number() -> None:
    curve = WeightCurve(((0.0, 1.0), (1.0, 0.0)))
    assert [curve(Instant(step, 5)) for step in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize(
    ("points", "over", "words"),
    [
        ((), "progress", "points of finite numbers"),
        (((0.0, math.nan),), "progress", "points of finite numbers"),
        (((0.0, 1.0), (0.0, 2.0)), "progress", "places of a curve's points rise"),
        (((0.0, 1.0, 2.0),), "progress", "pairs of numbers"),
        (5, "progress", "pairs of numbers"),
        (((0.0, 1.0),), "time", "runs over progress or sigma"),
    ],
)
def test_what_is_no_curve_is_an_error(points: Any, over: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        WeightCurve(points, over)


def test_a_curve_over_sigma_needs_one() -> None:
    with pytest.raises(UsageError, match=r"tells no sigma.*over progress"):
        WeightCurve(((0.0, 1.0),), "sigma")(Instant(0, 2))


def test_a_list_has_a_weight_for_every_step() -> None:
    timed = as_timed([1, 0.5, 0])
    assert timed == StepWeights((1.0, 0.5, 0.0))
    assert timed is not None
    assert [timed(Instant(step, 3)) for step in range(3)] == [1.0, 0.5, 0.0]
    with pytest.raises(UsageError, match=r"expected 4 weights, found 3.*WeightCurve"):
        timed(Instant(0, 4))
    for wrong in ([], [1, "x"], [math.inf], [True]):
        with pytest.raises(UsageError, match="finite number for every step"):
            as_timed(wrong)
    assert as_timed(0.5) is as_timed(None) is as_timed({"unet": 1.0}) is None


def test_a_function_s_weight_is_a_finite_number() -> None:
    assert at(lambda now: now.step, Instant(2, 3)) == 2.0
    with pytest.raises(UsageError, match=r"step 1: a weight is a finite number \(found nan\)"):
        at(lambda now: math.nan, Instant(1, 3))


def test_a_document_s_schedule_is_read_and_its_branches_are_the_adapter_s() -> None:
    adapter = format.read(GOLDEN)
    found = read_schedule(adapter.about, adapter.branches)
    assert found is not None
    assert found.weight == WeightCurve(((0, 0.25), (1.5, 1), (14.5, 0.5)), "sigma")
    assert found.branches == {"neon": WeightCurve(((0, 0), (1, 1)))}
    assert read_schedule({}, ()) is None
    with pytest.raises(DocumentError, match=r"schedule.branches.neon: no such branch \(expected no named branches"):
        read_schedule(adapter.about, ())
    adapter.about["schedule"]["weight"]["points"].reverse()
    with pytest.raises(DocumentError, match=r"schedule.weight: is no curve: .*rise"):
        read_schedule(adapter.about, adapter.branches)


def test_a_file_with_a_schedule_requires_readers_to_know_it(tmp_path: Path) -> None:
    adapter = format.read(GOLDEN)
    format.write(adapter, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == GOLDEN.read_bytes()
    data = GOLDEN.read_bytes().replace(rb"\"requires\":[\"schedule\"],", b"")
    size = int.from_bytes(data[:8], "little") - len(rb"\"requires\":[\"schedule\"],")
    (tmp_path / "silent.safetensors").write_bytes(size.to_bytes(8, "little") + data[8:])
    with pytest.raises(DocumentError, match=r"requires: does not name the feature that it uses \(expected schedule"):
        format.read(tmp_path / "silent.safetensors")


def test_inspect_shows_a_schedule_and_what_cannot_hold_it_refuses_it(tmp_path: Path) -> None:
    found = si_hub.inspect(GOLDEN)
    assert not isinstance(found, list)
    text = found.as_text()
    assert "by step         weight × 0.25 at 0, 1 at 1.5, 0.5 at 14.5 of sigma" in text
    assert "branch neon × 0 at 0, 1 at 1 of progress" in text
    check_constant({})
    base = "sd15"
    for refuse in (
        lambda: si_hub.export(GOLDEN, to="kohya", base=base, output=tmp_path / "out.safetensors"),
        lambda: si_hub.merge([GOLDEN, GOLDEN], tmp_path / "sum.safetensors", base=base),
        lambda: si_hub.split(GOLDEN, tmp_path, by="branch", base=base),
    ):
        with pytest.raises(ConversionRefused, match="weights change by step"):
            refuse()
