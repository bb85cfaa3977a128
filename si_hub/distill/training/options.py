"""What can be said about training, and what is written down of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from si_hub.distill.request import TrainingOptions
from si_hub.training.loop import Course, Recipe, round_losses, round_short
from si_hub.words import setting

#: Options that say nothing of the result.
_UNSAID = ("part", "every", "save_every", "checkpointing")


def recipe_of(options: TrainingOptions) -> Recipe:
    """How the loop is to train."""
    return Recipe(
        options.steps, options.samples, options.part, options.rate, options.average or None,
        every=options.every or None, save_every=options.save_every,
    )  # fmt: skip


def remarks(course: Course) -> list[str]:
    """What the user should know of a training that did not go as he wished."""
    stopped = [f"training stopped early: {course.stopped}"] if course.stopped else []
    if course.best:
        return stopped
    return [*stopped, f"no step was better than the start, which is kept: try a lower rate, {setting('rate', 'N')}"]


def training_document(
    options: TrainingOptions, precision: str, course: Course, started: float, seed: int
) -> dict[str, Any]:
    """The ``training`` field of the adapter's document."""
    losses, errors = round_losses(course)
    found = {
        **{name: value for name, value in asdict(options).items() if name not in _UNSAID},
        "precision": precision,
        "images": bool(options.images),
        "seed": seed,
        "started_from": "calibrated",
        "started_at": round_short(started),
        "errors": errors,
        "losses": losses,
        "kept_step": course.best,
    }
    return found if course.stopped is None else {**found, "stopped": course.stopped}
