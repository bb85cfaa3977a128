"""The branches of one adapter, each against its own tuned model: measured one by one, trained all together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from si_hub.distill.request import Request
from si_hub.distill.running.fidelity import Fidelity, Measure
from si_hub.distill.running.runner import arithmetic_of
from si_hub.distill.running.student import Student
from si_hub.distill.survey.stages import Survey
from si_hub.distill.training.lessons import LessonPool, Lessons, Walks, turn
from si_hub.distill.training.options import recipe_of, remarks, training_document
from si_hub.training.accelerating import accelerator_of, checkpoint_activations, show_of
from si_hub.training.loop import run_loop
from si_hub.work.folder import Work


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch and the tuned model that it stands for.

    Attributes:
        name: of the branch.
        survey: of the tuned model, whose runner shares the student's pipeline.
        measure: what its error is measured with.
    """

    name: str
    survey: Survey
    measure: Measure


@dataclass(frozen=True, slots=True)
class Standing:
    """How near the branches are to their tuned models.

    Attributes:
        alone: each at weight 1.
        routed: each where the router has to find it, by its name in the prompt; empty without one.
    """

    alone: dict[str, Fidelity]
    routed: dict[str, Fidelity]

    @property
    def error(self) -> float:
        """Mean of all."""
        found = [*self.alone.values(), *self.routed.values()]
        return sum(one.error for one in found) / len(found)


def standing_of(student: Student, branches: Sequence[Branch], *, routed: bool = False) -> Standing:
    """The branches as they are now, alone and, if wanted, where the router has to find them."""
    alone = {}
    for branch in branches:
        student.choose({branch.name: 1.0})
        alone[branch.name] = branch.measure.present()
    student.choose(None)
    return Standing(alone, {one.name: one.measure.present(one.name) for one in branches} if routed else {})


@dataclass(frozen=True, slots=True)
class Mixed:
    """Lessons of several branches in one batch.

    Attributes:
        lessons: of each branch.
        order: (branch, row) of each sample of the batch.
        routed: whether the router has to find the branch.
    """

    lessons: Sequence[Lessons]
    order: tuple[tuple[int, int], ...]
    routed: bool

    def __getitem__(self, rows: slice) -> Mixed:
        return Mixed(self.lessons, self.order[rows], self.routed)

    def by_branch(self) -> dict[int, Lessons]:
        """The lessons of the batch, branch by branch."""
        rows: dict[int, list[int]] = {}
        for branch, row in self.order:
            rows.setdefault(branch, []).append(row)
        return {branch: self.lessons[branch][chosen] for branch, chosen in sorted(rows.items())}


@dataclass(slots=True)
class Imitations:
    """The task: every branch predicts the noise that its tuned model predicts.

    With a learned router every second batch is without a choice of branches: the prompt names the branch then, and the
    router has to see it. So does the null prompt: guidance would else take the style for what the prompt wants more of.

    Attributes:
        student: the adapter.
        branches: what each branch stands for.
        pools: where each one's lessons come from.
        seed: of the draws.
        routed: whether the router is learned.
    """

    student: Student
    branches: Sequence[Branch]
    pools: Sequence[LessonPool]
    seed: int
    routed: bool
    units: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.units = [float(branch.measure.base.mean()) for branch in self.branches]

    @property
    def leaves(self) -> Mapping[str, nn.Parameter]:
        """The adapter's tensors; the router's only where it learns."""
        return {name: leaf for name, leaf in self.student.leaves.items() if self.routed or ".router." not in f".{name}"}

    def draw(self, step: int, count: int) -> Mixed:
        """As many lessons of each branch, as near as may be."""
        ends = [count * k // len(self.pools) for k in range(len(self.pools) + 1)]
        sizes = [end - start for start, end in pairwise(ends)]
        lessons = [pool.draw(step, max(1, size), self.seed) for pool, size in zip(self.pools, sizes, strict=True)]
        order = tuple((branch, row) for branch, size in enumerate(sizes) for row in range(size))
        return Mixed(lessons, order, self.routed and step % 2 == 1)

    def loss(self, part: Mixed) -> Tensor:
        """Squared error of the predicted noise, each sample in units of the base's against its tuned model."""
        total = torch.zeros(())
        for k, lessons in part.by_branch().items():
            branch = self.branches[k]
            choose = partial(self.student.choose, None if part.routed else {branch.name: 1.0})
            choose()
            predicted = branch.survey.runner(lessons.states.with_word(branch.name) if part.routed else lessons.states)
            if predicted.requires_grad:
                # What the way back computes again, it computes with this choice: the last branch comes first there.
                predicted.register_hook(lambda _, choose=choose: choose())  # type: ignore[no-untyped-call]
            error = (predicted - lessons.target.to(predicted.device)).square().mean() / self.units[k]
            total = total.to(error.device) + error * (len(lessons) / len(part.order))
        return total

    def error(self) -> float:
        """Mean error of the branches."""
        return standing_of(self.student, self.branches, routed=self.routed).error


def train_branches(
    student: Student, branches: Sequence[Branch], request: Request, work: Work, start: Standing
) -> tuple[dict[str, Any], list[str]]:
    """Train the student in place; what is left in it is never worse than the start.

    Returns:
        The document's field, and what the user should know.
    """
    options, pools = request.training, []
    for branch in branches:
        survey, name = branch.survey, f"walk {branch.name}"
        walks = Walks(survey.runner, survey.prompts, options.walks, survey.batch, request.seed, name)
        share = -(-options.samples // len(branches))
        teaching = partial(student.away, survey.runner)
        pools.append(LessonPool(walks, teaching, work, survey.crew, turn(options.walks, share), name))
    task = Imitations(student, branches, pools, request.seed, request.router == "learned")
    precision, device = branches[0].survey.settings.precision, branches[0].survey.crew.device
    accelerator = accelerator_of(arithmetic_of(precision, device), device)
    file = work.folder / "training.pt"
    with checkpoint_activations(student.runner.denoiser, options.checkpointing):
        course = run_loop(task, recipe_of(options), accelerator, checkpoint=file, show=show_of(request.progress))
    student.choose(None)
    return training_document(options, precision, course, start.error, request.seed), remarks(course)
