"""What can be said about training, and what is written down of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

from si_hub.distill.request import Request
from si_hub.distill.training.loop import Course, Recipe
from si_hub.errors import UsageError
from si_hub.report.progress import Shown

#: Precisions of arithmetic; the base's weights stay float32, and so do the adapter's.
PRECISIONS = ("no", "fp16", "bf16")
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
#: Numbers of a course that the document keeps.
_SHOWN = 40
#: Bytes that the document's ``training`` field takes, at most.
DOCUMENT = 1 << 11
#: Options that say nothing of the result.
_UNSAID = ("part", "every", "save_every", "checkpointing", "branches", "router")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Options of the method.

    Attributes:
        steps: of training.
        samples: of a step, on all processes together.
        part: samples that a process computes at once.
        rate: peak learning rate, as a share of each leaf's root mean square.
        average: decay of the moving average; 0 for the default of `Recipe`.
        walks: trajectories that the tuned model walks at a time.
        features: weight of the features' error beside that of the predicted noise; 0 leaves it out.
        images: a folder of pictures to learn from instead of the tuned model's own sampling.
        precision: ``no``, ``fp16`` or ``bf16``.
        checkpointing: whether activations are computed twice to save memory.
        every: steps between two measurements; 0 for the default of `Recipe`.
        save_every: steps between two checkpoints.
        branches: names of the tuned models, parted by commas, where there are several.
        router: ``fixed`` or ``learned``, where there are several.
    """

    steps: int = 600
    samples: int = 32
    part: int = 16
    rate: float = 0.05
    average: float = 0.0
    walks: int = 8
    features: float = 0.0
    images: str = ""
    precision: str = "no"
    checkpointing: bool = False
    every: int = 0
    save_every: int = 50
    branches: str = ""
    router: str = "fixed"

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> tuple[Wanted, dict[str, Any]]:
        """Our own options, and the others, which are the calibration's.

        Raises:
            UsageError: a value that makes no sense.
        """
        names: dict[str, Any] = {one.name: type(getattr(cls(), one.name)) for one in fields(cls)}
        own = {name: value for name, value in options.items() if name in names}
        for name, value in own.items():
            kind = names[name]
            if kind in (int, float) and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
                raise UsageError("is a positive number", key=name, found=value)
            if kind is int and (value != int(value) or value < 1):
                raise UsageError("is a whole number, 1 or more", key=name, found=value)
            if kind is bool and str(value).lower() not in _BOOLEANS:
                raise UsageError("is yes or no", key=name, expected=", ".join(_BOOLEANS), found=value)
        values: dict[str, Any] = {
            k: _BOOLEANS[str(v).lower()] if names[k] is bool else names[k](v) for k, v in own.items()
        }
        found = cls(**values)
        if found.precision not in PRECISIONS:
            raise UsageError(
                "no such precision", key="precision", expected=", ".join(PRECISIONS), found=found.precision
            )
        if found.average >= 1:
            raise UsageError("is a decay, below 1", key="average", found=found.average)
        return found, {name: value for name, value in options.items() if name not in names}

    def recipe(self) -> Recipe:
        """How the loop is to train."""
        return Recipe(
            self.steps, self.samples, self.part, self.rate, self.average or None, every=self.every or None,
            save_every=self.save_every,
        )  # fmt: skip


@contextmanager
def accelerate_kept() -> Iterator[None]:
    """Afterwards accelerate is as it was: all Accelerators of a process, its user's too, have one precision."""
    from accelerate.state import AcceleratorState

    before = dict(AcceleratorState._shared_state)
    try:
        yield
    finally:
        AcceleratorState._reset_state()
        AcceleratorState._shared_state.update(before)


def accelerated(precision: str) -> Any:
    """accelerate's ``Accelerator`` for a precision, whatever an earlier one in this process had."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    return Accelerator(mixed_precision=precision)


@contextmanager
def checkpointed(denoiser: Any, wanted: bool) -> Iterator[None]:
    """Gradient checkpointing, if it is wanted, while the block runs."""
    if wanted:
        denoiser.enable_gradient_checkpointing()
    try:
        yield
    finally:
        if wanted:
            denoiser.disable_gradient_checkpointing()


def shown(request: Request) -> Any:
    """What follows the training on the screen."""
    progress = request.progress
    if progress is None:
        return None

    def show(done: int, total: int, text: str) -> None:
        assert progress is not None
        if isinstance(progress, Shown):
            progress.say(f"{done}/{total} {text}")
        progress(done, total)

    return show


def remarks(course: Course) -> list[str]:
    """What the user should know of a training that did not go as he wished."""
    stopped = [f"training stopped early: {course.stopped}"] if course.stopped else []
    if course.best:
        return stopped
    return [*stopped, "no step was better than the start, which is kept: try a lower rate, --set rate=N"]


def document(wanted: Wanted, course: Course, started: float, seed: int) -> dict[str, Any]:
    """The ``training`` field of the adapter's document."""
    every = max(1, -(-len(course.losses) // _SHOWN))
    means = [course.losses[k : k + every] for k in range(0, len(course.losses), every)]
    found = {
        **{name: value for name, value in asdict(wanted).items() if name not in _UNSAID},
        "images": bool(wanted.images),
        "seed": seed,
        "started_from": "calibrated",
        "started_at": _rounded(started),
        "errors": [[step, _rounded(error)] for step, error in course.errors],
        "losses": [_rounded(sum(few) / len(few)) for few in means],
        "kept_step": course.best,
    }
    return found if course.stopped is None else {**found, "stopped": course.stopped}


def _rounded(value: float) -> float | None:
    return float(f"{value:.4g}") if value == value and abs(value) != float("inf") else None
