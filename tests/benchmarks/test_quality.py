"""The table of distilled adapters: what is summed up, which bars are missed, and what a stopped run keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.distill_quality import Asked, Row, missed, shown, summary, told, written
from examples.miniature.scenes import parse
from examples.miniature.styles import ALL

ROW = Row("ink", 2, "lycoris", 0.4, (0.4,) * 5, 0.5, 0.9, 0.1, 1000, 4000, 1.0, 1.0)


def test_methods_are_summed_up_over_styles() -> None:
    rows = [ROW, replace(ROW, style="neon", noise=0.2), replace(ROW, method="calibrated", noise=0.1, left=0.25)]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in summary(rows)]
    assert [row[:3] for row in cells[2:]] == [["lycoris", "2", "0.3000"], ["calibrated", "2", "0.1000"]]
    assert cells[3][-2:] == ["0.250", "0.250"]


@pytest.mark.parametrize(
    ("method", "dim", "left", "third", "bar"),
    [
        ("calibrated", 2, 0.45, None, None),
        ("calibrated", 2, 0.46, None, "0.45"),
        ("calibrated", 4, 0.31, None, "0.3"),
        ("calibrated", 4, 0.31, 0.99, None),
        ("calibrated", 4, 0.31, 1.01, "0.3"),
        ("trained", 8, 0.11, None, "0.1"),
        ("svd", 8, 2.0, None, None),
    ],
)
def test_a_bar_is_missed_unless_a_third_of_the_size_leaves_no_more(
    method: str, dim: int, left: float, third: float | None, bar: str | None
) -> None:
    rows = [replace(ROW, method=method, dim=dim, left=left)]
    rows += [replace(ROW, method=f"{method}/3", dim=dim, left=third)] if third else []
    found = missed(rows)
    assert len(found) == (bar is not None)
    assert all(f"ink, dim {dim}: {method}" in line and f"not {bar}" in line for line in found)


def test_lines_are_kept_as_they_come_and_told_again_the_later_run_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    begun = written(iter([ROW, replace(ROW, dim=4)]), first)
    next(begun)
    assert told([first]) == [ROW]
    better = replace(ROW, noise=0.1)
    assert shown(written([better], second), "lycoris") == [better]
    assert told([first, second]) == [better]
    assert told([second, first]) == [ROW]
    assert "| ink | 2 | lycoris | 0.1000 |" in capsys.readouterr().out


def test_what_a_method_is_given_and_what_it_is_measured_with_have_no_prompt_in_common() -> None:
    for style in ("ink", ALL):
        asked = Asked(style, 20)
        assert not set(asked.prompts) & set(asked.taught())
        assert not any(parse(prompt)[0].is_held_out() for prompt in asked.taught())
        assert all(scene.is_held_out() for scene in asked.wanted)
    assert {parse(prompt)[1] for prompt in Asked(ALL, 20).prompts} == set(Asked(ALL, 20).words)
