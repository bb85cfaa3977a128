"""Charts: of what a report has data for, each as high as its numbers, layers as the data flow."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from si_hub.report.charts import CHARTS, block, charts_of, figure_png, in_flow, new_figure
from si_hub.report.distillation import CurvePoint, Distillation
from tests.report.world import HOSTILE, full_report, layer


def drawn(name: str, report: Distillation) -> tuple[Figure, Axes]:
    figure = new_figure(4, 3)
    axes = figure.add_subplot()
    CHARTS[name].draw(axes, report)
    return figure, axes


def test_a_report_has_the_charts_that_it_has_data_for() -> None:
    assert list(charts_of(full_report())) == list(CHARTS)
    assert list(charts_of(Distillation("curve", curve=[CurvePoint(10, 0.5), CurvePoint(20, 0.25)]))) == ["curve"]
    assert not charts_of(Distillation("nothing"))


def test_a_bar_is_as_long_as_what_it_stands_for() -> None:
    report = full_report()
    heights = [bar.get_height() for bar in drawn("buckets", report)[1].containers[0]]
    assert heights == [bucket.error for bucket in report.buckets]
    widths = [bar.get_width() for bar in drawn("carried", report)[1].containers[0]]
    assert widths == pytest.approx([100 * share for share in report.carried.values()])
    stairs = [patch for patch in drawn("ranks", report)[1].patches if isinstance(patch, StepPatch)]
    assert [value for patch in stairs for value in patch.get_data()[0]] == [one.rank for one in in_flow(report.layers)]


def test_the_curve_runs_through_every_point_from_the_smallest_to_the_largest() -> None:
    lines = drawn("curve", full_report())[1].lines
    predicted, measured, own = (np.asarray(line.get_xydata()).tolist() for line in lines)
    assert predicted == [[0.01, 0.4], [0.02, 0.0], [0.04, 0.1]]
    assert measured == [[0.04, 0.12]]
    assert [place[0] for place in own] == [0.04, 0.04]


@pytest.mark.parametrize("name", CHARTS)
def test_no_text_of_a_stranger_stops_a_chart_or_becomes_a_formula(name: str) -> None:
    figure, axes = drawn(name, full_report(HOSTILE))
    labels = [text for text in (*axes.get_xticklabels(), *axes.get_yticklabels()) if "script" in text.get_text()]
    assert bool(labels) is (name in {"ranks", "carried"})
    assert not any(label.get_parse_math() for label in labels)
    assert figure_png(figure).startswith(b"\x89PNG")


def test_layers_stand_in_the_order_in_which_data_flow() -> None:
    given = ["up_blocks.10.a", "conv_out", "up_blocks.9.a", "mid_block.a", "down_blocks.0.b", "conv_in"]
    ordered = in_flow([layer("text_model.fc1", component="text"), *map(layer, given)])
    assert [one.module for one in ordered] == [
        "text_model.fc1", "conv_in", "down_blocks.0.b", "mid_block.a", "up_blocks.9.a", "up_blocks.10.a", "conv_out",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("down_blocks.0.resnets.1.conv1", "down_blocks.0"),
        ("mid_block.attentions.0", "mid_block"),
        ("conv_in", "conv_in"),
    ],
)  # fmt: skip
def test_a_block_is_a_name_with_its_number(module: str, expected: str) -> None:
    assert block(module) == expected
