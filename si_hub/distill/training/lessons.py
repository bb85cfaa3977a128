"""What a student learns from: states of the tuned model's own sampling, and what it predicts there.

The pool is a window over an endless row of *walks*, each a few trajectories of fresh prompts and fresh noise. It moves
on as training goes on: the tuned model walks, the oldest walk is forgotten. Which walk a step learns from, and
everything random in it, follows from its number alone; walks are files, made by whichever process's turn it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from si_hub.distill.running import trajectory
from si_hub.distill.running.fidelity import predictions
from si_hub.distill.running.runner import Runner
from si_hub.distill.running.states import States
from si_hub.storage.tensors import Tensor as Stored
from si_hub.work.folder import Work, WorkEntry
from si_hub.work.processes import Processes
from si_hub.work.seeds import seed_of

#: Walks in the window.
WINDOW = 4
#: Steps of a trajectory, from and to: other numbers of steps ask for noise at other times.
_STEPS = (14, 28)
#: How often a state is learned from before its walk is forgotten, about.
_REUSE = 2


def turn(count: int, batch: int) -> int:
    """Steps of ``batch`` lessons after which a walk of ``count`` trajectories was learned from often enough."""
    return max(1, _REUSE * count * sum(_STEPS) // 2 // batch)


@dataclass(frozen=True, slots=True)
class Lessons:
    """States, and the noise that the tuned model predicts in them.

    Attributes:
        states: where.
        target: ``[len(states), ...]``.
    """

    states: States
    target: Tensor

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, rows: slice | Sequence[int]) -> Lessons:
        picked = list(range(len(self))[rows]) if isinstance(rows, slice) else list(rows)
        return Lessons(self.states[picked], self.target[picked])

    @classmethod
    def join(cls, several: Sequence[Lessons]) -> Lessons:
        """All of several walks."""
        return cls(States.join([one.states for one in several]), torch.cat([one.target for one in several]))

    @classmethod
    def from_entry(cls, entry: WorkEntry) -> Lessons:
        """The lessons that were kept under a name."""
        tensors = dict(entry.tensors)
        target = tensors.pop("target").torch()
        return cls(States.from_entry(WorkEntry(tensors, entry.facts)), target)


@dataclass(slots=True)
class LessonPool:
    """The window of walks, moving with the steps.

    Attributes:
        make: the lessons of a walk by its number, made while the pipeline is the tuned model.
        teaching: makes the pipeline the tuned model for as long as a block lasts.
        work: where walks are kept; ``name`` tells pools of one folder apart.
        crew: the processes that share the work.
        turn: steps after which the window moves on by a walk.
    """

    make: Callable[[int], Lessons]
    teaching: Callable[[], AbstractContextManager[None]]
    work: Work
    crew: Processes
    turn: int
    name: str = "walk"
    _held: dict[int, Lessons] = field(default_factory=dict, init=False)
    _window: tuple[int, Lessons] | None = field(default=None, init=False)

    def draw(self, step: int, count: int, seed: int) -> Lessons:
        """``count`` lessons of the step's window, evenly spread over the noise schedule."""
        lessons = self._lessons(step // self.turn)
        generator = torch.Generator().manual_seed(seed_of(seed, f"draw {self.name}", step))
        offsets = torch.rand(count, generator=generator)
        ordered = torch.argsort(lessons.states.place, stable=True)
        strata = ((torch.arange(count) + offsets) * (len(lessons) / count)).long().clamp(max=len(lessons) - 1)
        return lessons[ordered[strata].tolist()]

    def _lessons(self, first: int) -> Lessons:
        """All lessons of the window that begins with a walk."""
        if self._window is None or self._window[0] != first:
            self._hold(range(first, first + WINDOW))
            gone = [number for number in self._held if number < first]
            for number in gone:
                del self._held[number]
            if self.crew.main:
                self.work.drop([self._entry(number) for number in gone])
            self._window = first, Lessons.join([self._held[first + k] for k in range(WINDOW)])
        return self._window[1]

    def _hold(self, numbers: range) -> None:
        """Hold these walks; those that nobody has made are made now, `WINDOW` of them in one go."""
        if all(number in self._held for number in numbers):
            return
        # The same list in every process and in every run, whatever is kept already.
        stop = -(-numbers.stop // WINDOW) * WINDOW
        missing = [k for k in range(numbers.start, stop) if k not in self._held]
        mine = [k for k in self.crew.share(missing, lambda _: 1.0) if self.work.load(self._entry(k)) is None]
        if mine:
            with self.teaching():
                for number in mine:
                    self._keep(number, self.make(number))
        self.crew.wait()
        for number in missing:
            entry = self.work.load(self._entry(number))
            assert entry is not None
            self._held[number] = Lessons.from_entry(entry)

    def _entry(self, number: int) -> str:
        return f"{self.name} {number}"

    def _keep(self, number: int, lessons: Lessons) -> None:
        tensors, facts = lessons.states.as_tensors()
        tensors["target"] = lessons.target
        self.work.save(self._entry(number), {name: Stored.from_torch(value) for name, value in tensors.items()}, facts)


@dataclass(frozen=True, slots=True)
class Walks:
    """Makes walks: trajectories of a runner's present weights, and its predictions in all their states.

    Attributes:
        runner: the pipeline.
        prompts: to walk with, in turn.
        count: trajectories of a walk.
        batch: states at once.
        seed: of everything random.
        name: tells several of one seed apart.
    """

    runner: Runner
    prompts: Sequence[str]
    count: int
    batch: int
    seed: int
    name: str = "walk"

    def __call__(self, number: int) -> Lessons:
        """The lessons of a walk by its number."""
        low, high = _STEPS
        steps = low + seed_of(self.seed, f"{self.name} steps", number) % (high - low + 1)
        found: list[States] = []
        size = max(1, self.batch // 2)
        for start in range(0, self.count, size):
            places = range(number * self.count + start, number * self.count + min(start + size, self.count))
            told = [self.prompts[place % len(self.prompts)] for place in places]
            seeds = [seed_of(self.seed, self.name, place) for place in places]
            walked = trajectory.trajectories(self.runner, told, seeds, steps)
            found.append(trajectory.pick(walked, len(walked), trajectory.NULL_SHARE, seeds))
        return teach(self.runner, States.join(found), self.batch)


def teach(runner: Runner, states: States, batch: int) -> Lessons:
    """States with what the runner's present weights predict there."""
    return Lessons(states, predictions(runner, states, batch))
