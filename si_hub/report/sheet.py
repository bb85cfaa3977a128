"""A distillation's report as one PNG: its head, its charts, its pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import SubFigure

from si_hub.foreign import make_safe
from si_hub.report.charts import GREY, Chart, charts_of, figure_png, new_figure, style_axes
from si_hub.report.distillation import Distillation, ImageRow
from si_hub.report.pictures import fit_size
from si_hub.report.text import reasons

SHEET_WIDTH = 11.0
LINE = 0.2
CHART = 3.0
#: Charts side by side, at least: a lone one is not drawn out over the whole width.
NARROW = 2
PICTURE = 2.6
WRAPPED = 130


@dataclass(frozen=True)
class Band:
    """A band of the sheet: its height in inches, and what draws it."""

    height: float
    draw: Callable[[SubFigure], None]


def sheet(report: Distillation) -> bytes:
    """The PNG's bytes."""
    parts = [_head(report), *_pictures(report), *_charts(report)]
    figure = new_figure(SHEET_WIDTH, sum(part.height for part in parts))
    bands = figure.subfigures(len(parts), 1, height_ratios=[part.height for part in parts], squeeze=False)
    for part, band in zip(parts, bands[:, 0], strict=True):
        part.draw(band)
    return figure_png(figure)


def _head(report: Distillation) -> Band:
    """The title, the facts and what was left out."""
    lines = [report.verdict] if report.verdict else []
    lines += [f"{name}: {text}" for name, text in {**report.commands, **report.facts}.items()]
    lines += [f"left out: {line}" for line in reasons(report.left_out)]
    wrapped = [piece for line in lines for piece in textwrap.wrap(make_safe(line, 400, prose=True), WRAPPED)]
    height = 0.5 + LINE * len(wrapped)

    def draw(band: SubFigure) -> None:
        band.text(
            0.02, 1 - 0.15 / height, make_safe(report.title), fontsize=14, fontweight="bold", va="top", parse_math=False
        )
        text = "\n".join(wrapped)
        band.text(0.02, 1 - 0.48 / height, text, fontsize=9, color=GREY, va="top", linespacing=1.35, parse_math=False)

    return Band(height, draw)


def _charts(report: Distillation) -> list[Band]:
    """Wide charts in bands of their own, the others side by side."""
    found = list(charts_of(report).values())
    rows = [[chart] for chart in found if chart.wide]
    narrow = [chart for chart in found if not chart.wide]
    return [_charts_in_a_row(report, row) for row in [*rows, narrow] if row]


def _charts_in_a_row(report: Distillation, charts: list[Chart]) -> Band:
    def draw(band: SubFigure) -> None:
        columns = 1 if charts[0].wide else max(len(charts), NARROW)
        grid = band.add_gridspec(1, columns)
        for place, chart in enumerate(charts):
            chart.draw(style_axes(band.add_subplot(grid[place]), chart.title), report)

    return Band(CHART, draw)


def _pictures(report: Distillation) -> list[Band]:
    """A band for every prompt with a picture from each model."""
    titles = list(dict.fromkeys(title for row in report.rows for title in row.images))
    side = min(PICTURE, SHEET_WIDTH / (len(titles) + 1))
    return [Band(side + 2.2 * LINE, partial(_draw_row, row, titles)) for row in report.rows]


def _draw_row(row: ImageRow, titles: Sequence[str], band: SubFigure) -> None:
    text = make_safe(f"{row.prompt} (seed {row.seed})", WRAPPED)
    band.suptitle(text, x=0.02, ha="left", fontsize=9, color=GREY, parse_math=False)
    for title, axes in zip(titles, band.subplots(1, len(titles), squeeze=False)[0], strict=True):
        axes.set_axis_off()
        if title in row.images:
            axes.imshow(fit_size(row.images[title]), interpolation="nearest")
            axes.set_title(make_safe(title, 40), fontsize="small", parse_math=False)
