"""What can be said about training, and what is written down of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from inspect import unwrap
from typing import TYPE_CHECKING, Any

from si_hub.distill.request import TrainingOptions
from si_hub.distill.training.loop import Course, Recipe
from si_hub.distill.work.processes import is_launched
from si_hub.report.progress import Progress, ProgressBar
from si_hub.words import setting

if TYPE_CHECKING:
    import torch

#: Numbers of a course that the document keeps.
_SHOWN = 40
#: Options that say nothing of the result.
_UNSAID = ("part", "every", "save_every", "checkpointing")


def recipe_of(options: TrainingOptions) -> Recipe:
    """How the loop is to train."""
    return Recipe(
        options.steps, options.samples, options.part, options.rate, options.average or None,
        every=options.every or None, save_every=options.save_every,
    )  # fmt: skip


@contextmanager
def keep_accelerate() -> Iterator[None]:
    """Afterwards accelerate is as it was: all Accelerators of a process, its user's too, share device and precision."""
    from accelerate.state import AcceleratorState, PartialState

    states = (AcceleratorState, PartialState)
    before = [dict(state._shared_state) for state in states]
    try:
        yield
    finally:
        for state, kept in zip(states, before, strict=True):
            state._reset_state()
            state._shared_state.update(kept)


def accelerator_of(precision: str, device: torch.device) -> Any:
    """accelerate's ``Accelerator`` for a precision and kind of device, whatever an earlier one in this process had.

    It must not choose a device by itself: what is trained is on ours, and its autocast would be another's.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # Launched processes have met on this device already, and are not to meet again.
    AcceleratorState._reset_state(reset_partial_state=not is_launched())
    return Accelerator(mixed_precision=precision, cpu=device.type == "cpu", device_placement=False)


@contextmanager
def checkpoint_activations(denoiser: Any, wanted: bool) -> Iterator[None]:
    """Gradient checkpointing, if it is wanted, while the block runs."""
    if wanted:
        denoiser.enable_gradient_checkpointing()
    try:
        yield
    finally:
        if wanted:
            denoiser.disable_gradient_checkpointing()


def show_of(progress: Progress | None) -> Any:
    """What follows the training on the screen."""
    if progress is None:
        return None

    def show(done: int, total: int, text: str) -> None:
        assert progress is not None
        if isinstance(bar := unwrap(progress), ProgressBar):
            bar.say(f"{done}/{total} {text}")
        progress(done, total)

    return show


def remarks(course: Course) -> list[str]:
    """What the user should know of a training that did not go as he wished."""
    stopped = [f"training stopped early: {course.stopped}"] if course.stopped else []
    if course.best:
        return stopped
    return [*stopped, f"no step was better than the start, which is kept: try a lower rate, {setting('rate', 'N')}"]


def training_document(options: TrainingOptions, course: Course, started: float, seed: int) -> dict[str, Any]:
    """The ``training`` field of the adapter's document."""
    losses, errors = round_losses(course)
    found = {
        **{name: value for name, value in asdict(options).items() if name not in _UNSAID},
        "images": bool(options.images),
        "seed": seed,
        "started_from": "calibrated",
        "started_at": _round(started),
        "errors": errors,
        "losses": losses,
        "kept_step": course.best,
    }
    return found if course.stopped is None else {**found, "stopped": course.stopped}


def round_losses(course: Course) -> tuple[list[float | None], list[list[float | None]]]:
    """Means of the losses, so many as a document keeps, and (step, error) of every measurement."""
    every = max(1, -(-len(course.losses) // _SHOWN))
    means = [course.losses[k : k + every] for k in range(0, len(course.losses), every)]
    errors = [[step, _round(error)] for step, error in course.errors]
    return [_round(sum(few) / len(few)) for few in means], errors


def _round(value: float) -> float | None:
    return float(f"{value:.4g}") if value == value and abs(value) != float("inf") else None
