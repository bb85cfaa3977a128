"""Previews: every point of a curve is what distilling at that size gives, and nothing is decided by looking."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from si_hub.distill import Curve, compare, curve, distill
from si_hub.errors import CannotRun, FileAccessError, UsageError
from si_hub.work.folder import Work
from tests.miniature import BASE, INK, NEON, PROMPTS, tune_attentions

#: A look at few states is enough to hold one function against another.
FEW: dict[str, Any] = {
    "trajectories": 4, "states": 2, "sampling_steps": 5, "held_out": 4, "pieces": 4, "prompts": PROMPTS,
    "dtype": "fp16",
}  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tune_attentions(tmp_path_factory.mktemp("tuned"), "ink")


@pytest.fixture(scope="module")
def found(tuned: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Curve, Path]:
    """The curve, and the report that it was plotted in."""
    report = tmp_path_factory.mktemp("report") / "curve.html"
    return curve(BASE, tuned, sizes=[30_000, 120_000], size="60kB", cache=cache, report=report, **FEW), report


def test_every_point_is_what_distilling_at_its_size_leaves(
    found: tuple[Curve, Path], tuned: Path, cache: Path, tmp_path: Path
) -> None:
    shown, _ = found
    assert len(shown.points) == 3
    for point, size in zip(shown.points, (30_000, 60_000, 120_000), strict=True):
        assert point.size <= size
        made = distill(
            BASE, tuned, output=tmp_path / f"{size}.safetensors", method="calibrated", size=size, cache=cache,
            passes=0, **FEW,
        )  # fmt: skip
        assert made.fidelity["error"] == pytest.approx(point.measured, rel=1e-3)
        assert made.fidelity["predicted"] == pytest.approx(point.predicted, rel=1e-3)
        assert made.size == pytest.approx(point.size, abs=300)
    assert not shown.fitted
    assert ", before it is fitted:" in shown.as_text()


def test_points_are_fitted_where_that_is_asked_for(tuned: Path, cache: Path) -> None:
    plain, fitted = (curve(BASE, tuned, sizes=["40kB"], cache=cache, passes=passes, **FEW) for passes in (0, 4))
    assert fitted.fitted
    assert "before it is fitted" not in fitted.as_text()
    (before,), (after,) = plain.points, fitted.points
    assert before.measured is not None
    assert after.measured is not None
    assert after.measured < before.measured
    assert after.size == before.size


def test_the_curve_is_told_as_lines_as_data_and_as_a_plot(found: tuple[Curve, Path]) -> None:
    shown, report = found
    assert shown.as_text().count("<- chosen") == 1
    data = json.loads(json.dumps(shown.as_dict()))
    assert [one["size"] for one in data["points"]] == [point.size for point in shown.points]
    assert data["size"] == shown.points[1].size
    assert report.read_text(encoding="utf-8").count("data:image/png") == 1


def test_by_default_it_goes_from_everything_down_by_halves(tuned: Path, cache: Path) -> None:
    sizes = [point.size for point in curve(BASE, tuned, cache=cache, **FEW).points]
    assert len(sizes) >= 3
    assert all(1.5 < large / small < 2.5 for small, large in pairwise(sizes))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 4}, "^rank: a curve is drawn before an adapter is made"),
        ({"output": "x.safetensors"}, "^output: "),
        ({"method": "svd"}, "only the method calibrated"),
        ({"report": "curve.gif"}, "no kind of report"),
        ({"dtype": "int4"}, "no such dtype"),
        ({"sizes": [40_000, 0]}, "^sizes: is no size"),
    ],
)
def test_what_a_curve_has_no_use_for_is_refused_before_any_work(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        curve(BASE, INK, **options)


def test_a_base_that_cannot_be_run_has_no_curve() -> None:
    with pytest.raises(CannotRun, match="cannot be run"):
        curve(BASE / "unet", INK)


def test_a_cache_that_cannot_be_made_is_told_by_an_option_that_a_curve_has(tuned: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileAccessError, match=r"cannot be made: .* Name another with cache=FOLDER") as told:
        curve(BASE, tuned, cache=tmp_path / "file" / "cache", **FEW)
    assert "work=" not in str(told.value)


def test_two_that_ask_at_once_do_not_throw_away_each_other_s_work(tmp_path: Path) -> None:
    work = Work(tmp_path / "work")
    with work.hold():
        work.open({"sharing": "another's"})
        with pytest.raises(FileAccessError, match="another run is at work in it"):
            compare(BASE, NEON, INK, work=work.folder)
        assert [path.name for path in work.folder.glob("*.json")] == ["plan.json"]
