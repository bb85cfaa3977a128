"""The page's plots: whole curves, spreads, sizes of training sets, and where the ranks go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib.pyplot as plt

from benchmarks.claim.study import BORROWED, TASKS, Found, Results, best_lora

#: Method → colour, where it stands out.
COLOURS = {"fitted": "#c2185b", "LoRA, linear layers": "#455a64", "LoRA, all layers": "#1976d2"}
_OTHER = "#b0bec5"


def draw_plots(results: Results, ranks: Mapping[str, int], folder: Path) -> list[tuple[str, str]]:
    """Writes the plots; returns file names and what they show."""
    plt.rcParams.update({"font.size": 11, "figure.dpi": 110, "svg.hashsalt": "claim", "axes.grid": True})
    drawn = [
        ("claim-small.png", _forgetting(results["small-16"], "small-16"), "Error on unseen pictures against "
         "error on plain ones, along the training: lower left is better."),
        ("claim-large.png", _forgetting(results["large"], "large"), "The same for five styles by their words."),
        ("claim-distill.png",
         _courses(results, [task for task in results if TASKS[task].teacher and task not in BORROWED]),
         "Distillation: what is left of the way from base to checkpoint, along the training."),
        ("claim-spread.png", _spreads(results["small-16"]), "16 pictures: every method at the rate and step that its "
         "search chose, a dot for each seed."),
        ("claim-sizes.png", _sizes(results, [task for task in results if task.startswith("small-")]), "One style, by "
         "the number of pictures, a dot for each seed."),
        ("claim-rates.png", _rates(results), "What the search saw: the best error along the steps, by learning rate."),
        ("claim-ranks.png", _ranks(ranks), "Where a survey of 16 pictures in ink deals the ranks."),
    ]  # fmt: skip
    for name, figure, _ in drawn:
        figure.savefig(folder / name, bbox_inches="tight", metadata={"Software": None})
        plt.close(figure)
    return [(name, words) for name, _, words in drawn]


def _means(found: Found) -> list[tuple[int, float, float]]:
    curves = [ran.curve for ran in found.runs.values()]
    return [
        (points[0][0], fmean(own for _, own, _ in points), fmean(plain for _, _, plain in points))
        for points in zip(*curves, strict=True)
    ]


def _forgetting(found: Mapping[str, Found], task: str) -> Any:
    figure, axes = plt.subplots(figsize=(7.5, 4.8))
    for name, one in sorted(found.items(), key=lambda pair: pair[0] in COLOURS):
        points = _means(one)
        colour = COLOURS.get(name, _OTHER)
        axes.plot([plain for _, _, plain in points], [own for _, own, _ in points], ".-", color=colour,
                  label=name if name in COLOURS else None, lw=2 if name in COLOURS else 1)  # fmt: skip
    axes.set(xlabel="error on plain pictures (forgetting)", ylabel="error on unseen pictures of the task",
             title=TASKS[task].title)  # fmt: skip
    axes.plot([], [], ".-", color=_OTHER, label="other methods")
    axes.legend()
    return figure


def _courses(results: Results, tasks: Sequence[str]) -> Any:
    figure, places = plt.subplots(1, len(tasks), figsize=(1 + 6 * len(tasks), 4.2), squeeze=False)
    for axes, task in zip(places[0], tasks, strict=True):
        for name, one in results[task].items():
            points = _means(one)
            axes.semilogy([step for step, _, _ in points], [own for _, own, _ in points], ".-",
                          color=COLOURS.get(name, _OTHER), label=name)  # fmt: skip
        axes.set(title=TASKS[task].title, xlabel="step", ylabel="error, of the base's")
        axes.legend()
    return figure


def _spreads(found: Mapping[str, Found]) -> Any:
    order = sorted(found, key=lambda name: fmean(found[name].errors), reverse=True)
    figure, axes = plt.subplots(figsize=(7.5, 0.36 * len(order) + 1.2))
    for row, name in enumerate(order):
        axes.plot(
            found[name].errors, [row] * len(found[name].errors), "o", color=COLOURS.get(name, "#78909c"), alpha=0.7
        )
        axes.plot([fmean(found[name].errors)], [row], "|", color="black", ms=16)
    axes.set_yticks(range(len(order)), order)
    axes.set(xlabel="error on unseen pictures of the style")
    return figure


def _sizes(results: Results, tasks: Sequence[str]) -> Any:
    figure, axes = plt.subplots(figsize=(7.5, 4.2))
    # Of the LoRAs that a task has, the search may find another best.
    best = {task: best_lora(results[task]) for task in tasks}
    for label, names in (("LoRA, the search's best", best), ("fitted", dict.fromkeys(tasks, "fitted"))):
        counted = sorted((TASKS[task].count, results[task][name].errors) for task, name in names.items())
        colour = COLOURS.get(label, COLOURS["LoRA, all layers"])
        axes.plot([count for count, _ in counted], [fmean(errors) for _, errors in counted], "-", color=colour,
                  label=label)  # fmt: skip
        for count, errors in counted:
            axes.plot([count] * len(errors), errors, "o", color=colour, alpha=0.5)
    axes.set_xscale("log", base=2)
    axes.set_xticks([TASKS[task].count for task in tasks], [str(TASKS[task].count) for task in tasks])
    axes.set(xlabel="pictures", ylabel="error on unseen pictures of the style")
    axes.legend()
    return figure


def _rates(results: Results) -> Any:
    searched_tasks = {task: found for task, found in results.items() if task not in BORROWED}
    figure, places = plt.subplots(1, len(searched_tasks), figsize=(4.2 * len(searched_tasks), 3.6), squeeze=False)
    for axes, (task, found) in zip(places[0], searched_tasks.items(), strict=True):
        for name in (one for one in COLOURS if one in found):
            searched = found[name].searched
            axes.plot(list(searched), list(searched.values()), "o-", color=COLOURS[name], label=name)
        axes.set(xscale="log", title=task, xlabel="learning rate", ylabel="best error of the search")
        tried = sorted({rate for name in COLOURS if name in found for rate in found[name].searched})
        axes.set_xticks(tried, [f"{rate:g}" for rate in tried], fontsize=8)
        axes.minorticks_off()
    places[0][0].legend(fontsize=8)
    figure.tight_layout()
    return figure


def _ranks(ranks: Mapping[str, int]) -> Any:
    figure, axes = plt.subplots(figsize=(7.5, 0.17 * len(ranks) + 0.8))
    names = list(ranks)[::-1]
    axes.barh(range(len(names)), [ranks[name] for name in names], color=COLOURS["fitted"])
    axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.set(xlabel="rank", ylim=(-0.7, len(names) - 0.3))
    return figure
