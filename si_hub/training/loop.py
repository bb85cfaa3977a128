"""One loop that trains a few tensors against whatever a task says: on any number of processes, resumable to the bit.

The batch of a step is a function of the step alone, the same on every process; each process computes the gradients of
its own parts of it. Parts are summed in float64, so that how many processes share them does not matter, and the result
is the same adapter. Nothing random has a state that would have to be saved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from si_hub.errors import FormatError, UsageError
from si_hub.storage.files import atomic_file, open_regular
from si_hub.training.optimizers import make_optimizer
from si_hub.tuner.kinds import has_float64

#: Called with (steps done, all of them, what to show beside the bar).
Show = Callable[[int, int, str], None]

#: Called with the course so far, after so many steps.
Look = Callable[["Course", int], None]

#: Share of the steps over which the learning rate rises.
_WARMUP = 0.05
#: How many of the last losses the shown one is the mean of.
_RECENT = 20
#: Numbers of a course that a document keeps.
_SHOWN = 40
#: What a checkpoint holds.
_STATE = {"leaves", "average", "best", "optimizer", "scaler", "course", "step"}
_AFRESH = "Delete it to start afresh."


@dataclass(frozen=True, slots=True)
class Recipe:
    """How something is trained.

    Attributes:
        steps: optimiser steps; the learning rate rises shortly and falls to zero over them along a cosine.
        batch: samples a step, on all processes together.
        part: samples a process computes at once; gradients of several parts are added up.
        rate: peak learning rate, in units of the root mean square that each leaf starts with (``relative``).
        average: decay of the moving average that is measured and kept; None: half a tenth of the steps long.
        clip: largest norm of the whole gradient.
        every: steps between two measurements; None: ten of them.
        save_every: steps between two checkpoints.
        relative: whether ``rate`` is in those units, or the same number for every leaf.
        decay: weight decay.
        optimizer: one of `si_hub.training.optimizers.OPTIMIZERS`.
    """

    steps: int
    batch: int = 32
    part: int = 16
    rate: float = 0.05
    average: float | None = None
    clip: float = 1.0
    every: int | None = None
    save_every: int = 50
    relative: bool = True
    decay: float = 0.0
    optimizer: str = "adamw"

    @property
    def schedule_free(self) -> bool:
        """Whether the optimiser averages by itself, and wants a rate that stays."""
        return self.optimizer == "schedulefree"

    def rate_at(self, step: int) -> float:
        """Factor of the peak learning rate at a step, counted from 0."""
        rise = min(1.0, (step + 1) / max(1.0, _WARMUP * self.steps))
        if self.schedule_free:
            return rise
        return rise * 0.5 * (1.0 + math.cos(math.pi * step / self.steps))

    def average_at(self, step: int) -> float:
        """Decay of the moving average at a step: short at first, so that the start is forgotten."""
        longest = max(0.0, 1.0 - 20.0 / self.steps) if self.average is None else self.average
        return min(longest, (step + 1) / (step + 10))

    def measures_after(self, step: int) -> bool:
        """Whether the error is measured after a step, counted from 1."""
        return step == self.steps or step % (self.every or max(1, self.steps // 10)) == 0

    def parts(self, processes: int) -> tuple[int, int]:
        """How many parts each process computes at a step, and how many samples one has.

        Raises:
            UsageError: the processes cannot share a batch evenly.
        """
        if self.batch % processes:
            raise UsageError(
                "the processes cannot share a batch evenly", key="batch", found=self.batch,
                expected=f"a multiple of {processes}",
            )  # fmt: skip
        own = self.batch // processes
        part = next(size for size in range(min(self.part, own), 0, -1) if own % size == 0)
        return own // part, part


class Task(Protocol):
    """What is trained, on what, and how good it is."""

    @property
    def leaves(self) -> Mapping[str, nn.Parameter]:
        """What is trained, by name."""

    def draw(self, step: int, count: int) -> Any:
        """The batch of a step, the same on every process and in every run; sliceable along its samples."""

    def loss(self, part: Any) -> Tensor:
        """Mean loss over a part of the batch."""

    def error(self) -> float:
        """Error of the present leaves on what is held out; 0 is perfect. Called on every process."""


@dataclass(slots=True)
class Course:
    """How a training went.

    Attributes:
        losses: of every step.
        errors: (step, held-out error) of every measurement; the first is the start's.
        best: step of the leaves that were kept.
        stopped: why it ended before its last step.
    """

    losses: list[float] = field(default_factory=list)
    errors: list[tuple[int, float]] = field(default_factory=list)
    best: int = 0
    stopped: str | None = None

    @property
    def error(self) -> float:
        """Error of what was kept."""
        return dict(self.errors)[self.best]


def run_loop(
    task: Task,
    recipe: Recipe,
    accelerator: Any,
    *,
    checkpoint: Path | None = None,
    show: Show | None = None,
    look: Look | None = None,
) -> Course:
    """Trains the task's leaves in place; what is left in them is the best moving average, at worst the start.

    Args:
        task: what is trained.
        recipe: how.
        accelerator: accelerate's ``Accelerator``; its processes, device and precision are used.
        checkpoint: a file to save to and to take up again where it exists; stays until its owner has the result safe.
        show: told after every step.
        look: called before the first step and after every one, with the leaves' moving average in them.

    Returns:
        The course, on every process.

    Raises:
        UsageError: a batch that the processes cannot share, or the checkpoint of another run.
        FormatError: a damaged checkpoint.
        FileAccessError: a checkpoint that cannot be read or written.
    """
    run = _Run(task, recipe, accelerator, checkpoint)
    if not run.resume():
        run.measure()
        run.show_average(look)
    while not run.over:
        run.advance()
        run.show_average(look)
        if show is not None:
            show(run.step, recipe.steps, run.text())
        if run.step % recipe.save_every == 0 or run.over:
            run.save()
    with torch.no_grad():
        for name, leaf in task.leaves.items():
            leaf.copy_(run.best[name])
    return run.course


class _Run:
    """A training under way."""

    def __init__(self, task: Task, recipe: Recipe, accelerator: Any, checkpoint: Path | None) -> None:
        self.task, self.recipe, self.accelerator, self.checkpoint = task, recipe, accelerator, checkpoint
        self.leaves = dict(task.leaves)
        self.count, self.size = recipe.parts(accelerator.num_processes)
        groups = [
            {"params": [leaf], "lr": recipe.rate, "peak": recipe.rate * unit_of(leaf, recipe)}
            for leaf in self.leaves.values()
        ]
        self.optimizer = accelerator.prepare(make_optimizer(recipe.optimizer, groups, recipe.decay))
        if recipe.schedule_free:
            self.optimizer.train()
        self.average = {name: leaf.detach().clone() for name, leaf in self.leaves.items()}
        self.best = {name: leaf.detach().clone() for name, leaf in self.leaves.items()}
        self.gradient = Gradient(list(self.leaves.values()))
        self.course = Course()
        self.step = 0

    @property
    def over(self) -> bool:
        """Whether there is nothing more to do."""
        return self.step >= self.recipe.steps or self.course.stopped is not None

    def advance(self) -> None:
        """One step, and the measurement where it is time for one."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self.recipe.rate_at(self.step)
        batch = self.task.draw(self.step, self.recipe.batch)
        loss = self._backward(batch)
        self.step += 1
        self.course.losses.append(loss)
        if not math.isfinite(loss):
            self.course.stopped = f"the loss was {loss} at step {self.step}"
            return
        self.accelerator.clip_grad_norm_(list(self.leaves.values()), self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        keep = self.recipe.average_at(self.step - 1)
        if not self.recipe.schedule_free:
            with torch.no_grad():
                for name, leaf in self.leaves.items():
                    self.average[name].lerp_(leaf, 1.0 - keep)
        if self.recipe.measures_after(self.step):
            self.measure()

    def _backward(self, batch: Any) -> float:
        """The batch's mean loss, with its gradient in the leaves."""
        total = torch.zeros((), dtype=self.gradient.dtype, device=self.gradient.device)
        first = self.accelerator.process_index * self.count
        for index in range(first, first + self.count):
            with self.accelerator.autocast():
                loss = self.task.loss(batch[index * self.size : (index + 1) * self.size])
            self.accelerator.backward(loss)
            self.gradient.take()
            total += loss.detach()
        parts = self.count * self.accelerator.num_processes
        self.gradient.put(self.accelerator, parts)
        mean: Tensor = self.accelerator.reduce(total, "sum") / parts
        return float(mean)

    def show_average(self, look: Look | None) -> None:
        """Lets somebody look at the moving average."""
        if look is None:
            return
        self._take_average()
        with swap_values(self.leaves, self.average):
            look(self.course, self.step)

    def _take_average(self) -> None:
        """What a schedule-free optimiser averages by itself, as the moving average; it trains on other values."""
        if not self.recipe.schedule_free:
            return
        self.optimizer.eval()
        for name, leaf in self.leaves.items():
            self.average[name].copy_(leaf.detach())
        self.optimizer.train()

    def measure(self) -> None:
        """Measures the moving average, and keeps it where it is the best so far."""
        self._take_average()
        with swap_values(self.leaves, self.average):
            error = self.task.error()
        known = dict(self.course.errors).get(self.course.best, math.inf)
        self.course.errors.append((self.step, error))
        if error < known:
            self.course.best = self.step
            self.best = {name: value.clone() for name, value in self.average.items()}

    def text(self) -> str:
        """Mean of the last losses, and the last measured error, for the progress line."""
        recent = self.course.losses[-_RECENT:]
        return (
            f"loss {sum(recent) / len(recent):.3g}, {self.course.errors[-1][1]:.4f} left, best {self.course.error:.4f}"
        )

    # Checkpoints.

    def save(self) -> None:
        """Everything a resumed run needs, whole or not at all."""
        self.accelerator.wait_for_everyone()
        if self.checkpoint is None or not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        state = {
            "leaves": {name: leaf.detach() for name, leaf in self.leaves.items()},
            "average": self.average,
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "course": [self.course.losses, self.course.errors, self.course.best, self.course.stopped],
            "step": self.step,
        }
        save_whole(state, self.checkpoint)

    def resume(self) -> bool:
        """Takes up the checkpoint, where there is one."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return False
        state = load_whole(self.checkpoint)
        shapes = {name: leaf.shape for name, leaf in self.leaves.items()}
        if {name: value.shape for name, value in state["leaves"].items()} != shapes:
            raise UsageError("is the checkpoint of another training", file=self.checkpoint, hint=_AFRESH)
        with torch.no_grad():
            for name, leaf in self.leaves.items():
                leaf.copy_(state["leaves"][name])
                self.average[name].copy_(state["average"][name])
                self.best[name].copy_(state["best"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        losses, errors, best, stopped = state["course"]
        self.course = Course(list(losses), [(step, error) for step, error in errors], best, stopped)
        self.step = state["step"]
        return True


def round_losses(course: Course) -> tuple[list[float | None], list[list[float | None]]]:
    """Means of the losses, so many as a document keeps, and (step, error) of every measurement."""
    every = max(1, -(-len(course.losses) // _SHOWN))
    means = [course.losses[k : k + every] for k in range(0, len(course.losses), every)]
    errors = [[step, round_short(error)] for step, error in course.errors]
    return [round_short(sum(few) / len(few)) for few in means], errors


def round_short(value: float) -> float | None:
    """Four digits of a number, as documents keep them; ``None`` for what is no finite one."""
    return float(f"{value:.4g}") if value == value and abs(value) != float("inf") else None


class Gradient:
    """The gradient of a whole batch, added up part by part in float64, or in float32 on a device without."""

    def __init__(self, leaves: Sequence[nn.Parameter]) -> None:
        self.leaves = leaves
        self.device = leaves[0].device
        self.dtype = torch.float64 if has_float64(self.device) else torch.float32
        self.total = torch.zeros(sum(leaf.numel() for leaf in leaves), dtype=self.dtype, device=self.device)

    def take(self) -> None:
        """Adds what the leaves hold, and empties them."""
        for leaf, place in self._places():
            if leaf.grad is not None:
                place += leaf.grad.reshape(-1)
                leaf.grad = None

    def put(self, accelerator: Any, parts: int) -> None:
        """Gives the leaves the mean over all parts of all processes, and starts again from zero."""
        self.total = accelerator.reduce(self.total, "sum")
        for leaf, place in self._places():
            leaf.grad = (place / parts).to(leaf.dtype).reshape(leaf.shape)
        self.total.zero_()

    def _places(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        sizes = [leaf.numel() for leaf in self.leaves]
        return zip(self.leaves, torch.split(self.total, sizes), strict=True)


def unit_of(leaf: Tensor, recipe: Recipe) -> float:
    """What a recipe's rate is multiplied with for a leaf."""
    return root_mean_square(leaf) if recipe.relative else 1.0


def root_mean_square(leaf: Tensor) -> float:
    """Root mean square of a leaf, the unit of its learning rate; a leaf of zeros learns as if it were 0.01."""
    return float(leaf.detach().float().square().mean().sqrt()) or 0.01


@contextmanager
def swap_values(leaves: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> Iterator[None]:
    """The leaves with other values, for as long as the context lasts."""
    own = {name: leaf.data for name, leaf in leaves.items()}
    for name, leaf in leaves.items():
        leaf.data = values[name]
    try:
        yield
    finally:
        for name, leaf in leaves.items():
            leaf.data = own[name]


def save_whole(state: dict[str, Any], file: Path) -> None:
    """Writes beside, then puts in place: a run that is killed while saving keeps its last checkpoint.

    Raises:
        FileAccessError: no permission, no space.
    """
    with atomic_file(file, overwrite=True) as out:
        torch.save(state, out)


def load_whole(file: Path) -> dict[str, Any]:
    """What was saved; whatever else the file may hold, none of it is run.

    Raises:
        FormatError: a damaged file, or no checkpoint.
        FileAccessError: no permission.
    """
    with open(open_regular(file), "rb") as data:
        try:
            state = torch.load(data, map_location="cpu", weights_only=True)
        except Exception:
            # Torch's own words advise to load it without protection.
            raise FormatError("is damaged, or no checkpoint", file=file, hint=_AFRESH) from None
    if not isinstance(state, dict) or state.keys() != _STATE:
        raise FormatError("is no checkpoint", file=file, hint=_AFRESH)
    return state
