"""What is trained: for every task and method a search on seeds that are not reported, then the reported seeds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean, stdev

from benchmarks.claim.methods import GRID, LORAS, METHODS, OURS, PARTS, PEERS, RATES, Method
from benchmarks.claim.runs import POINTS, Ran, Wanted, kept_run, set_up, steps_of
from benchmarks.claim.tasks import TASKS

#: Seeds of the search, of which nothing is reported, and those that are.
SEARCHED, REPORTED = (100,), (1, 2, 3, 4, 5)
#: How often the search may go on to a finer or coarser rate, while its best lies at an edge.
FURTHER = 5

#: Tasks that take rates and shares of the steps from another's search.
BORROWED = {"small-64": "small-16", "neon-16": "small-16", "distill-all": "distill-ink"}

_FINALISTS = (LORAS[0], LORAS[1], OURS[0])
_BOTH = (LORAS[0], LORAS[1], OURS[0])
_PLAIN = (LORAS[0], LORAS[1], PEERS[4], PEERS[6], OURS[0], OURS[1], OURS[3], OURS[5], PARTS[0], PARTS[2])
_WORDS = (LORAS[0], LORAS[1], OURS[0], OURS[5])
#: Task → methods; what has no search of its own takes the rates and steps of another task.
QUICK: dict[str, Sequence[Method]] = {
    "small-16": _PLAIN, "small-8": _BOTH, "small-64": _BOTH, "large": _WORDS, "distill-ink": _BOTH,
    "distill-all": _BOTH,
}  # fmt: skip
_MORE = {"neon-16": _PLAIN}
FULL: dict[str, Sequence[Method]] = {
    name: tuple(dict.fromkeys((*methods, *PEERS, *OURS, *PARTS, *(GRID if name in ("small-16", "large") else ()))))
    for name, methods in (QUICK | _MORE).items()
}


@dataclass(frozen=True)
class Found:
    """A method on a task.

    Args:
        rate, step: what the search chose.
        searched: best error of the search by rate.
        runs: by reported seed.
    """

    rate: float
    step: int
    searched: Mapping[float, float] = field(hash=False)
    runs: Mapping[int, Ran] = field(hash=False)

    @property
    def errors(self) -> list[float]:
        """On unseen pictures of the task, by seed, at the chosen step."""
        return [ran.at(self.step)[0] for ran in self.runs.values()]

    @property
    def forgotten(self) -> list[float]:
        """On plain pictures, by seed."""
        return [ran.at(self.step)[1] for ran in self.runs.values()]

    def judged(self, what: str) -> list[float]:
        """Alignment or style score by seed; empty where nothing was drawn."""
        found = [getattr(ran, what) for ran in self.runs.values()]
        return [value for value in found if value is not None]

    @property
    def ran(self) -> Ran:
        """One of the runs, for what does not depend on the seed."""
        return next(iter(self.runs.values()))


Results = dict[str, dict[str, Found]]


class Study:
    """All runs of a set of tasks and methods.

    Args:
        folder: of finished runs.
        workers: processes.
        show: told how many of the runs that are known of are done.

    Attributes:
        done: finished runs.
        seconds: processor time that they took, whenever they were made.
    """

    def __init__(self, folder: Path, workers: int, show: Callable[[int, int], None]) -> None:
        self.folder, self.workers, self.show = folder, workers, show
        self.done = self.known = 0
        self.seconds = 0.0

    def results(self, tasks: Mapping[str, Sequence[Method]]) -> Results:
        """Search, then report; what is on disk is taken from there."""
        os.environ["OMP_NUM_THREADS"] = "1"
        with ProcessPoolExecutor(self.workers, initializer=set_up) as pool:
            self.pool = pool
            chosen = self._search(tasks)
            wanted = [
                reported(task, method.name, rate, step, seed)
                for (task, method), (rate, step, _) in chosen.items()
                for seed in REPORTED
            ]
            # Those of one seed follow each other: a process surveys its pictures, and asks its teacher, once.
            wanted.sort(key=lambda one: (list(TASKS).index(one.task), one.seed))
            rans = dict(zip(wanted, self._run(wanted), strict=True))
        found: Results = {}
        for (task, method), (rate, step, searched) in chosen.items():
            runs = {one.seed: ran for one, ran in rans.items() if (one.task, one.method) == (task, method.name)}
            found.setdefault(task, {})[method.name] = Found(rate, step, searched, runs)
        return found

    def _search(
        self, tasks: Mapping[str, Sequence[Method]]
    ) -> dict[tuple[str, Method], tuple[float, int, dict[float, float]]]:
        """By task and method: the rate and step that are best on seeds that are not reported, and the best by rate."""
        rates = {
            (task, method): [rate * method.pace for rate in RATES]
            for task in tasks if task not in BORROWED for method in tasks[task]
        }  # fmt: skip
        runs: dict[tuple[str, Method], dict[float, list[Ran]]] = {pair: {} for pair in rates}
        for _ in range(FURTHER + 1):
            wanted = [
                (pair, rate, Wanted(pair[0], pair[1].name, rate, seed, "search"))
                for pair, tried in rates.items() for rate in tried if rate not in runs[pair] for seed in SEARCHED
            ]  # fmt: skip
            for (pair, rate, _one), ran in zip(wanted, self._run([one for _, _, one in wanted]), strict=True):
                runs[pair].setdefault(rate, []).append(ran)
            for pair, tried in rates.items():
                best = min(tried, key=lambda rate: _best(runs[pair][rate])[0])
                if best == max(tried):
                    tried.append(2 * best)
                elif best == min(tried):
                    tried.append(best / 2)
        found = {}
        for pair, by_rate in runs.items():
            bests = {rate: _best(rans) for rate, rans in sorted(by_rate.items())}
            rate = min(bests, key=lambda one: bests[one][0])
            found[pair] = (rate, bests[rate][1], {one: value for one, (value, _) in bests.items()})
        for task, lender in BORROWED.items():
            for method in tasks.get(task, ()):
                rate, step, searched = found[lender, method]
                point = round(step * POINTS / steps_of(lender, method.name))
                found[task, method] = (rate, round(steps_of(task, method.name) * point / POINTS), searched)
        return found

    def _run(self, wanted: Iterable[Wanted]) -> list[Ran]:
        todo = list(wanted)
        self.known += len(todo)
        found = []
        for ran in self.pool.map(partial(kept_run, folder=self.folder), todo):
            found.append(ran)
            self.done += 1
            self.seconds += ran.seconds
            self.show(self.done, self.known)
        return found


def reported(task: str, method: str, rate: float, step: int, seed: int) -> Wanted:
    """A reported run of what the search chose; whole where its curve and pictures are shown."""
    whole = METHODS[method] in _FINALISTS and task not in BORROWED
    return Wanted(task, method, rate, seed, "report", step, whole)


def _best(rans: Sequence[Ran]) -> tuple[float, int]:
    """The smallest mean error along the curves of several seeds, and its step."""
    steps = [step for step, _, _ in rans[0].curve]
    means = {step: fmean(ran.at(step)[0] for ran in rans) for step in steps}
    step = min(steps, key=lambda one: means[one])
    return means[step], step


def spread_text(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{fmean(values):.4f} ± {stdev(values):.4f}"


def best_lora(found: Mapping[str, Found]) -> str:
    """The LoRA of PEFT's that the search itself found best: what ours is compared with."""
    names = [method.name for method in LORAS if method.name in found]
    return min(names, key=lambda name: min(found[name].searched.values()))


__all__ = [
    "FULL",
    "METHODS",
    "QUICK",
    "REPORTED",
    "SEARCHED",
    "TASKS",
    "Found",
    "Results",
    "Study",
    "best_lora",
    "reported",
]
