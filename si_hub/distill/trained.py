"""``--method trained``: the calibrated adapter, trained end to end against the tuned model's predicted noise.

No image is needed: lessons are states of the tuned model's own sampling, and what it predicts there (`pool`). The error
is measured on held-out prompts and noise as it goes, and the best adapter is kept, at worst the one it started from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from si_hub.distill.calibrated import Calibration
from si_hub.distill.features import Features
from si_hub.distill.fidelity import Measure
from si_hub.distill.images import Pictures
from si_hub.distill.methods import Outcome, Request
from si_hub.distill.pairs import Pair
from si_hub.distill.pool import Lessons, Pool, Walks, turn
from si_hub.distill.student import Student
from si_hub.distill.training import Course, Recipe, train
from si_hub.errors import UsageError

#: Precisions of arithmetic; the base's weights stay float32, and so do the adapter's.
PRECISIONS = ("no", "fp16", "bf16")
#: Numbers of a course that the document keeps.
_SHOWN = 100


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
        save_every: steps between two checkpoints.
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
    save_every: int = 50

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
        found = cls(**{name: names[name](value) for name, value in own.items()})
        if found.precision not in PRECISIONS:
            raise UsageError(
                "no such precision", key="precision", expected=", ".join(PRECISIONS), found=found.precision
            )
        return found, {name: value for name, value in options.items() if name not in names}

    def recipe(self) -> Recipe:
        """How the loop is to train."""
        return Recipe(self.steps, self.samples, self.part, self.rate, self.average or None, save_every=self.save_every)


@dataclass(slots=True)
class Imitation:
    """The task: predict the noise that the tuned model predicts.

    Attributes:
        student: the adapter.
        pool: where lessons come from.
        measure: what the error is measured with.
        seed: of the draws.
        unit: mean squared error of the base itself, so that a loss of 1 is the base's.
        features: the tuned model's features, where their error counts too.
    """

    student: Student
    pool: Pool
    measure: Measure
    seed: int
    features: Features | None = None
    unit: float = field(init=False)

    def __post_init__(self) -> None:
        self.unit = float(self.measure.base.mean())

    @property
    def leaves(self) -> Mapping[str, nn.Parameter]:
        """The adapter's tensors."""
        return self.student.leaves

    def draw(self, step: int, count: int) -> Lessons:
        """Lessons of the pool's present window."""
        return self.pool.draw(step, count, self.seed)

    def loss(self, part: Lessons) -> Tensor:
        """Squared error of the predicted noise in units of the base's, and the features' error."""
        runner = self.student.runner
        if self.features is None:
            predicted, more = runner(part.states), None
        else:
            predicted, more = self.features.compare(runner, part.states)
        loss = (predicted - part.target.to(predicted.device)).square().mean() / self.unit
        return loss if more is None else loss + more

    def error(self) -> float:
        """Error left of the base's on held-out prompts and noise."""
        return self.measure.present().error


def run(pairs: Sequence[Pair], request: Request) -> Outcome:
    """One pair's adapter within the budget, trained.

    Raises:
        UsageError: several tuned models, an option that makes no sense, a batch that the processes cannot share.
        CannotRun: the base's pipeline cannot be run.
        MissingFile: ``images`` is no folder of pictures.
    """
    wanted, others = Wanted.of(request.options)
    accelerator = accelerated(wanted.precision)
    calibration = Calibration(pairs[0] if len(pairs) == 1 else _refuse(pairs), replace(request, options=others))
    choice = calibration.for_fidelity() if request.fidelity is not None else calibration.for_budget()
    started = calibration.measured(choice).error
    runner, survey = calibration.runner, calibration.survey
    denoiser: Any = runner.denoiser
    if wanted.checkpointing:
        denoiser.enable_gradient_checkpointing()
    student = Student(runner, choice.components)
    teaching = partial(student.away, runner)
    if wanted.images:
        make: Any = Pictures.of(runner, wanted.images, survey.batch, request.seed)
    else:
        make = Walks(runner, calibration.told, wanted.walks, survey.batch, request.seed)
    pool = Pool(make, teaching, request.work, calibration.crew, turn(wanted.walks, wanted.samples))
    features = Features(calibration.pair, runner, wanted.features) if wanted.features else None
    task = Imitation(student, pool, calibration.measure, request.seed, features)
    course = train(
        task, wanted.recipe(), accelerator, checkpoint=request.work.folder / "training.pt", show=shown(request)
    )
    trained = student.components(request.dtype) if course.best else choice.components
    student.leave()
    if wanted.checkpointing:
        denoiser.disable_gradient_checkpointing()
    outcome = calibration.outcome(replace(choice, components=trained))
    # Rounding to the adapter's dtype comes after the last measurement.
    if outcome.error > started:
        outcome = calibration.outcome(choice)
    outcome.training = document(wanted, course, started, request.seed)
    return outcome


def _refuse(pairs: Sequence[Pair]) -> Pair:
    raise UsageError("the method trained takes one tuned model", found=len(pairs), hint="Leave --method out.")


def accelerated(precision: str) -> Any:
    """accelerate's ``Accelerator`` for a precision, whatever an earlier one in this process had."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    return Accelerator(mixed_precision=precision)


def shown(request: Request) -> Any:
    """What follows the training on the screen."""
    progress = request.progress
    if progress is None:
        return None

    def show(done: int, total: int, text: str) -> None:
        assert progress is not None
        if hasattr(progress, "say"):
            progress.say(text)
        progress(done, total)

    return show


def document(wanted: Wanted, course: Course, started: float, seed: int) -> dict[str, Any]:
    """The ``training`` field of the adapter's document."""
    every = max(1, -(-len(course.losses) // _SHOWN))
    means = [course.losses[k : k + every] for k in range(0, len(course.losses), every)]
    found = {
        **{name: value for name, value in asdict(wanted).items() if name not in ("part", "save_every")},
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
