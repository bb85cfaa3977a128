"""What was chosen, fitted once more: its up matrices follow what the tuned model predicts, in a few passes.

The survey sees parts as slopes, one projection of the prediction at a time, and what is left out of an adapter acts
together, across layers, far more than its parts do alone. What remains of that when the adapter runs is known only from
running it. So the up matrix ``B`` of every pair moves on, to ``B + U X``, on states of the survey. U are the outputs of
the layer's pieces, each of length 1 in the norm of the gradients there, and X's columns are divided by the length that
the rank's row of down has in the norm of the inputs: a number of X is felt about like any other, as after K-FAC's
preconditioning (Martens & Grosse, arXiv 1503.05671), and what is left between layers the limited-memory BFGS finds
(Liu & Nocedal 1989) in a few passes. What that leaves of the error: docs/DISTILL.md.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from si_hub.adapter import Component
from si_hub.distill.methods.choosing import Choice
from si_hub.distill.pair.change import ModuleKey
from si_hub.distill.running.states import States
from si_hub.distill.running.storing import store_leaves
from si_hub.distill.running.student import Student
from si_hub.distill.survey.plan import lesson_rows
from si_hub.distill.survey.stages import PHASES, Findings, Made, Survey, even_scale
from si_hub.format.whole import UP
from si_hub.storage.tensors import Tensor as StoredTensor

#: Share of the error that the first step would remove if errors fell along a line.
FIRST = 0.3
#: A row of down that is this quiet beside the loudest of its layer moves no further than one that is so loud.
_QUIET = 1e-3
#: Units of gradients, in those of the first error: half precision has no numbers for all of a fine one's.
_UNITS = (1.0, 2.0**6, 2.0**12, 2.0**18)
#: Calls that end no search: passes do.
_ENDLESS = 1 << 30


def fit_to_predictions(survey: Survey, findings: Findings, choice: Choice, dtype: str) -> dict[str, Component]:
    """The layers of a choice, their up matrices fitted to the tuned model's predictions.

    Everything is kept with the survey: a killed run goes on, and the same choice costs nothing again.

    Args:
        survey: of the pair; its settings say how many passes.
        findings: of the survey.
        choice: what is carried.
        dtype: safetensors' name of what numbers are stored as.
    """
    if not survey.settings.fits or not any(_is_known(findings, column) for column in choice.columns):
        return choice.components
    passes = survey.settings.passes
    wanted = TunedPredictions(survey, passes)
    student = Student(survey.runner, choice.components)
    try:
        moves = list(_moves(student, findings, choice))
        for leaf in student.leaves.values():
            leaf.requires_grad_(False)
        for move in moves:
            move.leaf.requires_grad_(True)
        search = _Search(wanted, moves, _name(choice, dtype), passes)
        search.put(search.run())
        return _moved(choice, moves, dtype)
    finally:
        student.leave()


def _moved(choice: Choice, moves: Sequence[Move], dtype: str) -> dict[str, Component]:
    """The layers of a choice with their up matrices as they are now."""
    found = {name: replace(part, layers=dict(part.layers)) for name, part in choice.components.items()}
    for move in moves:
        component, module = move.key
        layer = found[component].layers[module]
        up = StoredTensor.from_torch(move.leaf.detach().cpu().reshape(layer.tensors[UP].shape).contiguous())
        found[component].layers[module] = replace(layer, tensors=store_leaves({**layer.tensors, UP: up}, dtype))
    return found


@dataclass(slots=True)
class Move:
    """How the up matrix of a layer moves: ``start + ups (units X)``, with ``units [directions, ranks]``.

    Attributes:
        key: of the layer's module.
        leaf: the live tensor.
        start: where it was, ``[out, ranks]``.
        ups: the outputs of the layer's pieces, ``[out, directions]``.
        units: what a number of X is multiplied with, so that all are felt alike: one by the length of the column of
            ups, and of the row of down.
    """

    key: ModuleKey
    leaf: nn.Parameter
    start: Tensor
    ups: Tensor
    units: Tensor

    @property
    def shape(self) -> torch.Size:
        """Of X."""
        return self.units.shape

    def put(self, moved: Tensor) -> None:
        """Set the leaf for some X."""
        now = self.start + self.ups @ (self.units * moved).float()
        self.leaf.data.copy_(now.reshape(self.leaf.shape))

    def take(self) -> Tensor:
        """The leaf's gradient as that of X, float64."""
        gradient = self.leaf.grad
        self.leaf.grad = None
        if gradient is None:
            return torch.zeros(self.shape, dtype=torch.float64)
        return self.units * (self.ups.T @ gradient.flatten(1).cpu().float()).double()


def _is_known(findings: Findings, column: int) -> bool:
    """Whether a part is a piece whose lengths are known."""
    key, name = findings.columns[column]
    parts = findings.parts[key]
    return name.isdecimal() and parts.felt is not None and parts.seen is not None


def _moves(student: Student, findings: Findings, choice: Choice) -> Iterator[Move]:
    """The pairs of a choice whose pieces' lengths are known, in the order of its layers."""
    kept = {column: share for group in choice.groups if group.kept is not None
            for column, share in zip(group.columns, group.kept, strict=True)}  # fmt: skip
    taken: dict[ModuleKey, list[tuple[int, float, float]]] = {}
    for column, much in zip(choice.columns, choice.coefficients.tolist(), strict=True):
        key, name = findings.columns[column]
        if _is_known(findings, column):
            taken.setdefault(key, []).append((int(name), abs(much), kept.get(column, 1.0) ** 0.5))
    for key, ranks in taken.items():
        parts = findings.parts[key]
        leaf = student.leaf_of(*key, UP)
        assert leaf is not None
        assert parts.up is not None
        assert parts.felt is not None
        assert parts.seen is not None
        places = [place for place, _, _ in ranks]
        start = leaf.detach().flatten(1).cpu().float().clone()
        much = torch.tensor([amount * share for _, amount, share in ranks], dtype=torch.float64)
        # What the rank does is what its piece does, times that: up is longer or shorter, and so down the other way.
        grown = (start.norm(dim=0) / parts.up[:, places].norm(dim=0)).double()
        lengths = much * parts.seen.double()[places] / grown.clamp(min=torch.finfo(torch.float32).tiny)
        felt = parts.felt.double()
        outer = torch.where(felt > 0, 1.0 / felt, 0.0)
        if lengths.max() > 0 and outer.any():
            inner = 1.0 / lengths.clamp(min=_QUIET * float(lengths.max()))
            yield Move(key, leaf, start, parts.up, outer[:, None] * inner)


def _name(choice: Choice, dtype: str) -> str:
    """What a choice is known by among those of the same survey."""
    forms = sorted({(group.columns[0], group.directions) for group in choice.groups})
    besides = [change.name for change in choice.always]
    much = [float(f"{one:.6g}") for one in choice.coefficients.tolist()]
    facts = [choice.columns, much, forms, besides, dtype]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


class TunedPredictions:
    """What the tuned model predicts on states of a survey, and how far an adapter is from it.

    It is asked at once, before there is an adapter in the pipeline.

    Args:
        survey: whose states, and where everything is kept.
        passes: over the states, for what is said of how far the work is.

    Attributes:
        chunks: the states.
        targets: what is predicted in each chunk, on the survey's even scale.
    """

    def __init__(self, survey: Survey, passes: int) -> None:
        self.survey, self._share = survey, 100 / (passes + 1)
        states, trajectories = survey.states(), len(survey.prompts)
        rows = lesson_rows(trajectories, len(states) // trajectories)
        self.chunks: Sequence[States] = survey.chunks_of(states[rows])
        self.targets = self._ask()

    def _ask(self) -> list[Tensor]:
        survey = self.survey

        def predict(k: int) -> Made:
            survey.runner.mix(1.0)
            with torch.no_grad():
                found = [survey.runner(part, even_scale(part.scale)).cpu() for part in self._batches(k)]
            return {"predicted": torch.cat(found)}, {}

        entries = survey.keep("targets", len(self.chunks), predict, (0.0, self._share))
        return [entry.tensors["predicted"].torch() for entry in entries]

    def miss(self, moves: Sequence[Move], stage: str, number: int) -> tuple[float, Tensor]:
        """Mean squared distance of what the pipeline predicts, and its gradient ``[all of X]``, float64.

        Args:
            moves: of the adapter in it, whose leaves alone take gradients.
            stage: a name for what the adapter is now.
            number: of the pass.
        """

        def look(k: int) -> Made:
            error, gradient = self._in_chunk(k, moves)
            return {"gradient": gradient.float(), "error": torch.tensor(error, dtype=torch.float64)}, {}

        entries = self.survey.keep(stage, len(self.chunks), look, (self._share * (1 + number), self._share))
        found = [{name: tensor.torch() for name, tensor in entry.tensors.items()} for entry in entries]
        numbers = sum(target.numel() for target in self.targets)
        error = sum(float(one["error"]) for one in found)
        return error / numbers, torch.stack([one["gradient"].double() for one in found]).sum(0) * 2 / numbers

    def _batches(self, k: int) -> list[States]:
        return self.chunks[k].batches(self.survey.batch)

    def _in_chunk(self, k: int, moves: Sequence[Move]) -> tuple[float, Tensor]:
        """The squared distance in a chunk and half its gradient, in the finest unit that has numbers for all of it.

        Half precision has gradients of small errors as those of large ones, in a unit that is the first error's own;
        where a layer adds up more of them than it can hold, in a coarser one.
        """
        for finest in _UNITS:
            error, unit = 0.0, 0.0
            for states, target in zip(self._batches(k), torch.split(self.targets[k], self.survey.batch), strict=True):
                left, unit = self._backward(states, target, unit, finest)
                error += left
            gradient = unit * torch.cat([move.take().flatten() for move in moves])
            if gradient.isfinite().all() or not math.isfinite(error):
                break
        return error, gradient

    def _backward(self, states: States, target: Tensor, unit: float, finest: float) -> tuple[float, float]:
        """The squared distance in a batch, and the unit of half its gradient, which leaves get besides what they have.

        Args:
            states, target: what is asked, and what the tuned model predicts.
            unit: of the gradients that leaves have already; 0 where they have none.
            finest: the unit of the first batch, in root mean squares of its distance.
        """
        runner = self.survey.runner
        half = runner.computed != torch.float32
        with torch.enable_grad(), torch.autocast(runner.device.type, runner.computed, enabled=half):
            predicted = runner(states, even_scale(states.scale))
        left = predicted.detach() - target.to(predicted.device)
        unit = unit or finest * (float(left.square().mean().sqrt()) or 1.0)
        (predicted * (left / unit)).sum().backward()  # type: ignore[no-untyped-call]
        return float(left.cpu().double().square().sum()), unit


class _Enough(Exception):
    """As many passes as were wanted."""


class _Search:
    """The best X of some passes.

    Args:
        wanted: what is to be met.
        moves: what moves.
        name: of the choice.
        passes: how many, the one before anything has moved included.
    """

    def __init__(self, wanted: TunedPredictions, moves: Sequence[Move], name: str, passes: int) -> None:
        self.wanted, self.moves, self.name, self.passes = wanted, moves, name, passes
        self.looked = 0
        self.least = math.inf
        self.best = torch.zeros(sum(move.shape.numel() for move in moves), dtype=torch.float64)

    def put(self, moved: Tensor) -> None:
        """Set every leaf for some X of all."""
        parts = torch.split(moved, [move.shape.numel() for move in self.moves])
        for move, part in zip(self.moves, parts, strict=True):
            move.put(part.reshape(move.shape))

    def run(self) -> Tensor:
        """The X that leaves the least, from what is kept where it is."""
        survey, kept = self.wanted.survey, f"fitted {self.name} {self.passes}"
        survey.crew.wait()
        entry = survey.work.load(kept)
        if entry is None:
            if survey.tell:
                survey.tell(PHASES["fit"])
            survey.runner.mix(0.0)
            with suppress(_Enough):
                self._descend()
            survey.crew.wait()
            if survey.crew.main:
                survey.work.save(kept, {"moved": StoredTensor.from_torch(self.best.float())}, {})
            survey.crew.wait()
            entry = survey.work.load(kept)
        assert entry is not None
        for number in range(self.passes):
            survey.let_go(self._stage(number))
        if survey.progress:
            survey.progress(100, 100)
        return entry.tensors["moved"].torch().double()

    def _descend(self) -> None:
        error, slope = self._look(self.best)
        if not error or not slope.any():
            return
        # The first step is the slope divided by its absolute sum, in the unit of what is searched.
        unit = FIRST * error * float(slope.abs().sum() / slope.square().sum())
        moved = nn.Parameter(torch.zeros_like(self.best))
        optimizer = torch.optim.LBFGS(
            [moved], max_iter=self.passes, max_eval=_ENDLESS, tolerance_grad=0.0, tolerance_change=0.0,
            history_size=self.passes, line_search_fn="strong_wolfe",
        )  # fmt: skip
        known: tuple[float, Tensor] | None = (error, slope)

        def closure() -> float:
            nonlocal known
            now, there = known or self._look(unit * moved.detach())
            known = None
            moved.grad = there * (unit / error)
            return now / error

        optimizer.step(closure)  # type: ignore[no-untyped-call]

    def _look(self, moved: Tensor) -> tuple[float, Tensor]:
        if self.looked == self.passes:
            raise _Enough
        self.put(moved)
        error, slope = self.wanted.miss(self.moves, self._stage(self.looked), self.looked)
        self.looked += 1
        if not math.isfinite(error) or not slope.isfinite().all():
            raise _Enough
        if error < self.least:
            self.least, self.best = error, moved.clone()
        return error, slope

    def _stage(self, number: int) -> str:
        return f"fit {self.name} {number}"
