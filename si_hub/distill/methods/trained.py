"""``--method trained``: the calibrated adapter, trained end to end against the tuned model's predicted noise.

No image is needed: lessons are states of the tuned model's own sampling, and what it predicts there
(`training.lessons`). The error is measured on held-out prompts and noise as it goes, and the best adapter is kept, at
worst the one it started from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from si_hub.distill.budget.filesize import TRAINING
from si_hub.distill.methods import several
from si_hub.distill.methods.calibrated import Calibration
from si_hub.distill.pair.matching import Pair
from si_hub.distill.request import Request
from si_hub.distill.result import Outcome
from si_hub.distill.running.features import Features
from si_hub.distill.running.fidelity import Measure
from si_hub.distill.running.runner import arithmetic_of
from si_hub.distill.running.student import Student
from si_hub.distill.training.lessons import LessonPool, Lessons, Walks, turn
from si_hub.distill.training.options import recipe_of, remarks, training_document
from si_hub.distill.training.pictures import Pictures
from si_hub.training.accelerating import accelerator_of, checkpoint_activations, keep_accelerate, show_of
from si_hub.training.gallery import check_pictures
from si_hub.training.loop import run_loop
from si_hub.work.folder import Work
from si_hub.work.processes import processes


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
    pool: LessonPool
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


@keep_accelerate()
def run(pairs: Sequence[Pair], request: Request, work: Work) -> Outcome:
    """The adapter within the budget, trained; several tuned models become the branches of one.

    Raises:
        UsageError: a batch that the processes cannot share.
        CannotRun: the base's pipeline cannot be run.
        MissingFile, FormatError, FileAccessError: ``images`` is no folder of pictures, or one of them cannot be read.
    """
    if len(pairs) > 1:
        return several.make_branches(pairs, request, work, train=True)
    options = request.training
    if options.images:
        check_pictures(options.images)
    device = processes(request.device).device
    accelerator = accelerator_of(arithmetic_of(request.survey.precision, device), device)
    size = None if request.size is None else request.size - TRAINING
    calibration = Calibration(pairs[0], replace(request, size=size))
    choice = calibration.fitted()
    started = calibration.fidelity_of(choice).error
    runner, survey = calibration.runner, calibration.survey
    student = Student(runner, choice.components)
    teaching = partial(student.away, runner)
    if options.images:
        make: Any = Pictures.of(runner, options.images, survey.batch, request.seed)
    else:
        make = Walks(runner, calibration.prompts, options.walks, survey.batch, request.seed)
    pool = LessonPool(make, teaching, work, calibration.crew, turn(options.walks, options.samples))
    features = Features(calibration.pair, runner, options.features) if options.features else None
    task = Imitation(student, pool, calibration.measure, request.seed, features)
    file = work.folder / "training.pt"
    with checkpoint_activations(runner.denoiser, options.checkpointing):
        course = run_loop(task, recipe_of(options), accelerator, checkpoint=file, show=show_of(request.progress))
    trained = student.components(calibration.dtype) if course.best else choice.components
    student.leave()
    outcome = calibration.outcome(replace(choice, components=trained))
    notes = remarks(course)
    # Rounding to the adapter's dtype comes after the last measurement.
    if outcome.error > started:
        outcome = calibration.outcome(choice)
        notes.append(f"rounded to {calibration.dtype}, what was trained was worse than the start, which is kept")
    outcome.notes += notes
    outcome.training = training_document(options, request.survey.precision, course, started, request.seed)
    return outcome
