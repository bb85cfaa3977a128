"""The charts of a distillation's report, each on matplotlib's axes.

Texts come from files of strangers: none is read as mathematics, and none is longer than its place.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, groupby

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from si_hub.foreign import make_safe
from si_hub.report.distillation import Bucket, CurvePoint, Distillation, LayerSpend
from si_hub.report.text import size_text

COLOURS = ("#3565a9", "#c8553d", "#4f8f5b", "#8a5fa8", "#b58a2c", "#5f7c8a")
GREY = "#6b7280"
#: How the modules' names begin, from input to output.
FLOW = (
    "conv_in", "pos_embed", "x_embedder", "context_embedder", "time", "add", "down", "mid", "up", "transformer",
    "single", "conv_norm_out", "norm_out", "proj_out", "conv_out",
)  # fmt: skip
#: Points that the curve of a training has, at most about.
_SMOOTHED = 200
#: Blocks with a smaller share of the layers have no room for their name.
LABELLED = 0.02


def draw_ranks(axes: Axes, report: Distillation) -> None:
    """A bar for every layer, coloured by component, with the names of its blocks below."""
    layers = in_flow(report.layers)
    components = list(dict.fromkeys(layer.component for layer in layers))
    for component, colour in zip(components, cycle(COLOURS), strict=False):
        places = [k for k, layer in enumerate(layers) if layer.component == component]
        edges = [place - 0.5 for place in (*places, places[-1] + 1)]
        axes.stairs([layers[k].rank for k in places], edges, fill=True, color=colour, label=_legend_text(component))
    middles, names = [], []
    for (_, name), group in groupby(enumerate(layers), key=lambda pair: (pair[1].component, block(pair[1].module))):
        places = [k for k, _ in group]
        axes.axvline(places[0] - 0.5, color="#d1d5db", linewidth=0.6, zorder=0)
        if len(places) >= LABELLED * len(layers):
            middles.append((places[0] + places[-1]) / 2)
            names.append(make_safe(name, 24))
    axes.set_xticks(middles, labels=names, rotation=45, ha="right", fontsize="small", parse_math=False)
    axes.set_xlim(-0.5, len(layers) - 0.5)
    axes.set_ylim(0, max(1.3 * max(layer.rank for layer in layers), 1))
    axes.set_ylabel("rank")
    if len(components) > 1:
        legend = axes.legend(frameon=False, fontsize="small", ncols=len(components), loc="upper left")
        for text in legend.get_texts():
            text.set_parse_math(False)


def _legend_text(component: str) -> str:
    """A component's name as matplotlib shows it: what begins with ``_`` would be left out of the legend."""
    shown = make_safe(component, 30)
    return f" {shown}" if shown.startswith("_") else shown


def draw_buckets(axes: Axes, report: Distillation) -> None:
    """The error left in each range of timesteps, and over all of them."""
    found: Sequence[Bucket] = report.buckets
    places = range(len(found))
    shown = axes.bar(places, [bucket.error for bucket in found], width=0.8, color=COLOURS[0])
    axes.bar_label(shown, fmt="%.3g", fontsize="small")
    axes.set_xticks(places, labels=[f"{bucket.start}–{bucket.end}" for bucket in found], fontsize="x-small")
    axes.set_xlabel("timesteps, noise on the right")
    axes.set_ylabel("error left (1 = base)")
    axes.margins(y=0.15)
    if report.error is not None:
        axes.axhline(report.error, color=COLOURS[1], linewidth=1, label=f"all: {report.error:.3g}")
        axes.legend(frameon=False, fontsize="small")


def draw_carried(axes: Axes, report: Distillation) -> None:
    """The share of each component's difference that the adapter carries."""
    names = [make_safe(name, 30) for name in report.carried]
    shares = [100 * share for share in report.carried.values()]
    shown = axes.barh(range(len(names)), shares, height=0.6, color=COLOURS[2])
    axes.bar_label(shown, fmt="%.1f %%", fontsize="small", padding=3)
    axes.set_yticks(range(len(names)), labels=names, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 118)
    axes.set_xticks(range(0, 101, 25))
    axes.set_xlabel("carried, % of the difference")


def draw_curve(axes: Axes, report: Distillation) -> None:
    """Error by size, predicted and measured, with the adapter's own size."""
    points: Sequence[CurvePoint] = sorted(report.curve, key=lambda point: point.size)
    sizes = [point.size / 1e6 for point in points]
    axes.plot(sizes, [point.predicted for point in points], "o--", color=COLOURS[0], markersize=4, label="predicted")
    known = [(point.size / 1e6, point.measured) for point in points if point.measured is not None]
    if known:
        axes.plot(*zip(*known, strict=True), "s-", color=COLOURS[1], markersize=5, label="measured")
    if report.size is not None:
        axes.axvline(report.size / 1e6, color=GREY, linewidth=1, linestyle=":", label=size_text(report.size))
    axes.set_xscale("log")
    axes.set_xticks(sizes, labels=[f"{size:.3g}" for size in sizes], rotation=45)
    axes.xaxis.set_minor_formatter(NullFormatter())
    if min(point.predicted for point in points) > 0 and all(value > 0 for _, value in known):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axes.yaxis.set_minor_formatter(
            FuncFormatter(lambda value, _: f"{value:.3g}" if f"{value:e}"[0] in "25" else "")
        )
        axes.tick_params(which="both", labelsize="small")
    axes.set_xlabel("MB")
    axes.set_ylabel("error left (1 = base)")
    axes.grid(color="#e5e7eb", linewidth=0.6)
    axes.legend(frameon=False, fontsize="small")


def draw_losses(axes: Axes, report: Distillation) -> None:
    """The loss of every step, smoothed, and the measured error beside it."""
    losses = [loss for loss in report.losses if math.isfinite(loss)]
    width = max(1, len(losses) // _SMOOTHED)
    means = [sum(losses[k : k + width]) / len(losses[k : k + width]) for k in range(0, len(losses), width)]
    axes.plot([min(k + width, len(losses)) for k in range(0, len(losses), width)], means, color=COLOURS[0])
    axes.set_xlabel("step")
    axes.set_ylabel("loss", color=COLOURS[0])
    axes.set_ylim(bottom=0)
    if report.errors:
        other = axes.twinx()
        other.plot(*zip(*report.errors, strict=True), "s-", color=COLOURS[1], markersize=4)
        other.set_ylabel("error (1 = base)", color=COLOURS[1])
        other.set_ylim(bottom=0)
        other.spines[["top"]].set_visible(False)


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        title: above it.
        needs: the field of a report that it draws; an empty one has no chart.
        draw: onto axes.
        wide: whether it takes a row of its own.
    """

    title: str
    needs: str
    draw: Callable[[Axes, Distillation], None]
    wide: bool = False


CHARTS: dict[str, Chart] = {
    "ranks": Chart("Rank of every layer", "layers", draw_ranks, wide=True),
    "buckets": Chart("Error of the predicted noise", "buckets", draw_buckets),
    "carried": Chart("What each component carries", "carried", draw_carried),
    "losses": Chart("Loss by step", "losses", draw_losses, wide=True),
    "curve": Chart("Error by size", "curve", draw_curve),
}


def charts_of(report: Distillation) -> Mapping[str, Chart]:
    """The charts that a report has data for."""
    return {name: chart for name, chart in CHARTS.items() if getattr(report, chart.needs)}


def new_figure(width: float, height: float) -> Figure:
    """A figure of inches with a canvas of its own: no window, no global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def figure_png(figure: Figure, dpi: int = 110) -> bytes:
    """A figure as a PNG, the same bytes every time."""
    out = io.BytesIO()
    with _any_script():
        figure.savefig(out, format="png", dpi=dpi, metadata={"Software": None})
    return out.getvalue()


def style_axes(axes: Axes, title: str) -> Axes:
    """Axes under a title, without the lines that show nothing."""
    axes.set_title(title, loc="left", fontsize="medium", fontweight="bold", parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


@contextmanager
def _any_script() -> Iterator[None]:
    """A prompt in a script that matplotlib's font lacks shows boxes, without a warning for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def block(module: str) -> str:
    """The part of a model that a module is in: ``down_blocks.0``, ``mid_block``, ``text_model`` ..."""
    first, *rest = module.split(".")
    return f"{first}.{rest[0]}" if rest and rest[0].isdecimal() else first


def in_flow(layers: Sequence[LayerSpend]) -> list[LayerSpend]:
    """The layers as the data flow through them: components as they are met first, blocks in the order of `FLOW`."""
    components = list(dict.fromkeys(layer.component for layer in layers))

    def place(layer: LayerSpend) -> tuple[int, int, list[tuple[int, str]]]:
        stage = next((k for k, start in enumerate(FLOW) if layer.module.startswith(start)), len(FLOW))
        parts = [(int(part), "") if part.isdecimal() else (-1, part) for part in layer.module.split(".")]
        return components.index(layer.component), stage, parts

    return sorted(layers, key=place)
