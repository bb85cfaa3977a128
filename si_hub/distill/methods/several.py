"""Several tuned models → one adapter with a branch each: one up matrix a layer for all, one down matrix for each.

The closed form of `budget.joint` gives every layer its ranks, the effects of each (`survey.effects`) say which are
worth their size, under one budget for all layers; training (`branches`) is the finish. Biases, norms and bare
parameters are one per layer in the file, not one per branch, so they stay the base's; what that costs is part of the
measured error.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from si_hub.adapter import Component
from si_hub.adapter import Layer as AdapterLayer
from si_hub.distill.budget.filesize import DOCUMENT_OF_SEVERAL, Price
from si_hub.distill.budget.joint import Common, balance_jointly, common
from si_hub.distill.budget.knee import SHARE, choose_size
from si_hub.distill.budget.overlap import SharedLayer, Sharing, sharing_report
from si_hub.distill.budget.rounding import LADDER, costs_little
from si_hub.distill.budget.spend import Group, refit, scores, smallest, spend
from si_hub.distill.methods.branches import Branch, standing_of, train_branches
from si_hub.distill.methods.routing import fit_routers
from si_hub.distill.methods.tries import tries_of
from si_hub.distill.pair.change import Change, ModuleKey
from si_hub.distill.pair.matching import Pair
from si_hub.distill.request import Request
from si_hub.distill.result import Outcome
from si_hub.distill.running import fidelity
from si_hub.distill.running.storing import store
from si_hub.distill.running.student import Student
from si_hub.distill.survey.cache import survey_of
from si_hub.distill.survey.curvature import Curvature, limit_of
from si_hub.distill.survey.effects import ChangeParts
from si_hub.distill.survey.moments import Root
from si_hub.distill.survey.stages import Findings, Survey, values_of
from si_hub.errors import UsageError
from si_hub.report.text import size_text
from si_hub.storage.tensors import Tensor
from si_hub.words import label
from si_hub.work.folder import Work, WorkEntry
from si_hub.work.seeds import seed_of

#: What a layer's router has in the file.
_ROUTER = {"fixed": ("router.bias",), "learned": ("router.weight", "router.bias")}
_PER_LAYER = "one per layer in the file, not one per branch"
_DEAR = "it removes too little of the error for its size"


@dataclass(frozen=True, slots=True)
class Teacher:
    """One of the tuned models.

    Attributes:
        name: of its branch.
        survey: what running it said.
        curvature: the moments of its layers.
        changes: its layers that a low-rank pair can stand for.
        weight: of its error among all: one over the base's own squared error against it.
    """

    name: str
    survey: Survey
    curvature: WorkEntry
    changes: dict[ModuleKey, Change]
    weight: float


def make_branches(pairs: Sequence[Pair], request: Request, work: Work, *, train: bool = False) -> Outcome:
    """Several pairs' adapter within the budget.

    Raises:
        UsageError: a size that holds nothing.
        CannotRun: the base's pipeline cannot be run.
    """
    return Teachers(pairs, request, work, train=train).outcome()


class Teachers:
    """Tuned models of one base, surveyed, with what their layers have in common.

    Args:
        pairs: the base with each of them.
        request: what is wanted; ``branches`` names them.
        work: where stages of the whole set are kept.
        train: whether the closed form is to be trained.

    Raises:
        CannotRun: the base's pipeline cannot be run.
    """

    def __init__(self, pairs: Sequence[Pair], request: Request, work: Work, *, train: bool = False) -> None:
        self.pairs, self.request, self.work, self.train = pairs, request, work, train
        self.names = request.branches
        self.dtype = request.dtype or LADDER[0]
        limit = limit_of([change for pair in pairs for change in pair.changes if change.kind in {"linear", "conv"}])
        self.teachers: list[Teacher] = []
        pipeline: Any = None
        self.source = ""
        for name, pair in zip(self.names, pairs, strict=True):
            survey, self.source = survey_of(pair, request, pipeline, limit, tries_of(request))
            pipeline = survey.runner.pipeline
            curvature = survey.curvature()
            measure = survey.measure()
            changes = {change.key: change for change in survey.low_rank_changes()}
            survey.runner.mix(0.0)
            self.teachers.append(Teacher(name, survey, curvature, changes, 1.0 / float(measure.base.mean())))
        self.crew = self.teachers[0].survey.crew
        self.limit = limit
        self.changes: dict[ModuleKey, Change] = {}
        for teacher in self.teachers:
            self.changes |= {key: change for key, change in teacher.changes.items() if key not in self.changes}
        self.count = 2 * request.rank if request.rank else self.teachers[0].survey.settings.pieces

    # What the layers have in common.

    def commons(self) -> dict[ModuleKey, Common]:
        """The closed form of every layer; kept, and shared between processes."""
        keys = list(self.changes)
        work = self._work("common", {"count": self.count})
        for k in self.crew.share(range(len(keys)), lambda k: float(self.changes[keys[k]].count)):
            if work.load(f"layer {k}") is None:
                found = self._common(keys[k])
                fields = {name: getattr(found, name) for name in Common.__slots__}
                work.save(f"layer {k}", {name: Tensor.from_torch(value) for name, value in fields.items()}, {})
        self.crew.wait()
        commons: dict[ModuleKey, Common] = {}
        for k, key in enumerate(keys):
            entry = work.load(f"layer {k}")
            assert entry is not None, key
            commons[key] = Common(**{name: tensor.torch() for name, tensor in entry.tensors.items()})
        return commons

    def _common(self, key: ModuleKey) -> Common:
        device = self.crew.solver
        deltas: list[torch.Tensor | None] = []
        inputs: list[Root | None] = []
        total = Curvature([self.changes[key]], self.limit, device)
        entries = [teacher.curvature for teacher in self.teachers if key in teacher.changes]
        total.add_up([values_of(entry) for entry in entries])
        for teacher in self.teachers:
            change = teacher.changes.get(key)
            delta = None if change is None else change.delta()
            deltas.append(None if delta is None else delta.flatten(1).to(device))
            own = None
            if change is not None:
                own = Curvature([change], self.limit, device)
                own.add_up([values_of(teacher.curvature)])
            inputs.append(None if own is None else own.moments[key].inputs.root())
        generator = torch.Generator(device).manual_seed(seed_of(self.request.seed, ".".join(key), 0))
        weights = [teacher.weight for teacher in self.teachers]
        return common(deltas, inputs, total.moments[key].outputs.root(), weights, self.count, generator)

    def sharing(self, commons: Mapping[ModuleKey, Common]) -> Sharing:
        """What one shared adapter and separate ones would cost."""
        layers = [SharedLayer(*self.changes[key].matrix, found) for key, found in commons.items()]
        return sharing_report(self.names, layers, Price(self.dtype))

    def _work(self, name: str, more: Mapping[str, Any]) -> Work:
        """A folder of its own for a stage of this set of tuned models."""
        plan = {"stage": name, "teachers": [str(t.survey.work.folder) for t in self.teachers], **more}
        digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:16]
        work = Work(self.work.folder / f"{name}-{digest}")
        if self.crew.main:
            work.open(plan)
        self.crew.wait()
        return work

    # Which of it is carried.

    def findings(self, commons: Mapping[ModuleKey, Common]) -> list[Findings]:
        """The effects of every rank in each tuned model's states."""
        found = []
        for k, teacher in enumerate(self.teachers):
            parts = {
                key: ChangeParts(one.down[k], one.up, kernel=tuple(self.changes[key].shape[1:]))
                for key, one in commons.items()
            }
            survey = teacher.survey.elsewhere(self._work(f"effects {k}", {"count": self.count}))
            found.append(survey.effects_of(parts))
            teacher.survey.runner.mix(0.0)
        return found

    def groups(self) -> list[Group]:
        """The ranks of each layer, with their cost in bytes, or in numbers where a rank is wanted."""
        price = Price(self.dtype if self.request.rank is None else None)
        found, first = [], 0
        for key, change in self.changes.items():
            out, width = change.matrix
            ranks = min(self.count, out, len(self.names) * width)
            router = _ROUTER[self.request.router]
            numbers = len(self.names) * (1 + (change.shape[1] if "router.weight" in router else 0))
            opening = price.router(".".join(key), len(router), numbers)
            columns = tuple(range(first, first + ranks))
            found.append(Group(columns, price.rank(out, width, len(self.names)), opening))
            first += ranks
        return found

    def budget(self) -> int:
        """What the ranks may cost, in the unit of `groups`."""
        if self.request.size is not None:
            return self.request.size - DOCUMENT_OF_SEVERAL
        assert self.request.rank is not None
        rank, numbers = self.request.rank, 0
        for change in self.changes.values():
            out, width = change.matrix
            numbers += min(rank, out, width) * (out + len(self.names) * width)
        return numbers

    def wanted_layers(self, commons: Mapping[ModuleKey, Common], branches: Sequence[Branch]) -> dict[str, Component]:
        """The layers of the adapter within the budget, or of the smallest whose every branch is as close as wanted.

        Without a budget the size is chosen; without a dtype numbers are the smallest that cost little enough.

        Raises:
            UsageError: nothing fits, or not even everything is that close.
        """
        findings = self.findings(commons)

        def error(components: Mapping[str, Component]) -> float:
            if not components:
                return 1.0
            student = Student(branches[0].survey.runner, components, self.names)
            try:
                return max(one.error for one in standing_of(student, branches).alone.values())
            finally:
                student.leave()

        asked = self.request.dtype
        for dtype in (asked,) if asked else LADDER:
            self.dtype = dtype
            found = self._within_budget(commons, findings, error)
            if asked or costs_little(found, dtype, error):
                break
        return store(found, self.dtype)

    def _within_budget(
        self,
        commons: Mapping[ModuleKey, Common],
        findings: Sequence[Findings],
        error: Callable[[Mapping[str, Component]], float],
    ) -> dict[str, Component]:
        """The layers in float32, at the price of what they are to be stored as."""
        groups = self.groups()
        if not groups:
            raise UsageError(
                "none of the tuned models has a layer that branches can carry", found=", ".join(self.names),
                hint="Make an adapter of each.",
            )  # fmt: skip
        least = min(group.cost + group.opening for group in groups)
        top = sum(group.opening + group.cost * len(group.columns) for group in groups)

        def make(budget: int) -> dict[str, Component]:
            return self.choose(commons, findings, budget)

        def stored(components: Mapping[str, Component]) -> float:
            return error(store(components, self.dtype))

        if self.request.fidelity is not None:
            return smallest(top, make, stored, self.request.fidelity)
        if not self.request.budgeted:
            limit = int(SHARE * sum(pair.tuned.nbytes for pair in self.pairs)) - DOCUMENT_OF_SEVERAL
            return choose_size(min(top, max(limit, least)), make, stored)
        if found := make(self.budget()):
            return found
        raise UsageError(
            "no part of the differences is that small", key=label("size"),
            expected=f"about {size_text(least + DOCUMENT_OF_SEVERAL)} or more", found=self.request.size,
        )  # fmt: skip

    def choose(
        self, commons: Mapping[ModuleKey, Common], findings: Sequence[Findings], budget: int
    ) -> dict[str, Component]:
        """The layers that are worth it within a budget, in float32, each branch's ranks refitted to its tuned model."""
        value = sum(scores(one.effects) / one.target.double().square().mean() for one in findings)
        assert isinstance(value, torch.Tensor)
        groups = self.groups()
        columns = spend(groups, value, budget)
        if not columns:
            return {}
        factors = torch.stack([refit(one.effects, one.target, columns, one.samples) for one in findings]).float()
        place = {column: k for k, column in enumerate(columns)}
        components: dict[str, Component] = {}
        for (key, found), group in zip(commons.items(), groups, strict=True):
            taken = [column for column in group.columns if column in place]
            if not taken:
                continue
            rows = [column - group.columns[0] for column in taken]
            scaled = found.down[:, rows] * factors[:, [place[column] for column in taken]][:, :, None]
            down, up = balance_jointly(scaled, found.up[:, rows])
            class_name = self.pairs[0].base.architecture.components[key[0]].class_name
            component = components.setdefault(key[0], Component(class_name))
            component.layers[key[1]] = self._layer(self.changes[key], down, up)
        return components

    def _layer(self, change: Change, down: torch.Tensor, up: torch.Tensor) -> AdapterLayer:
        count = len(self.names)
        shapes = {"router.bias": (count,), "router.weight": (count, change.shape[1])}
        leaves = {
            "down.weight": down.reshape(-1, *change.shape[1:]),
            "up.weight": up,
            **{leaf: torch.zeros(shapes[leaf]) for leaf in _ROUTER[self.request.router]},
        }
        return AdapterLayer({name: Tensor.from_torch(value.contiguous()) for name, value in leaves.items()})

    # What comes out.

    def branches(self) -> list[Branch]:
        """The tuned models as branches to measure and train."""
        return [Branch(t.name, t.survey, t.survey.measure()) for t in self.teachers]

    def outcome(self) -> Outcome:
        """The adapter with its report and its measurement."""
        learned = self.request.router == "learned"
        commons = self.commons()
        sharing = self.sharing(commons)
        branches = self.branches()
        components = self.wanted_layers(commons, branches)
        runner = branches[0].survey.runner
        student = Student(runner, components, self.names)
        try:
            if learned:
                fit_routers(student, branches)
                components = student.components(self.dtype)
            found = standing_of(student, branches, routed=learned)
            training: dict[str, Any] = {}
            notes: list[str] = []
            if self.train:
                training, notes = train_branches(student, branches, self.request, self.work, found)
                rounded = student.components(self.dtype)
                student.leave()
                student = Student(runner, rounded, self.names)
                after = standing_of(student, branches, routed=learned)
                # Rounding to the adapter's dtype comes after the last measurement of the training.
                if after.error <= found.error:
                    components, found = rounded, after
        finally:
            student.leave()
        alone = list(found.alone.values())
        mean = fidelity.Fidelity(
            sum(one.error for one in alone) / len(alone),
            tuple(_mean([one.by_bucket[k] for one in alone]) for k in range(fidelity.BUCKETS)),
            sum(one.states for one in alone),
        )
        left_out = self._left_out(components)
        facts = {
            "branches": _errors(found.alone),
            **({"routed": _errors(found.routed)} if learned else {}),
            "sharing": sharing.as_dict(),
            "prompts": len(set(branches[0].survey.held_out)),
            "prompts_from": self.source,
            "seed": self.request.seed,
            "left_out": dict(sorted(Counter(left_out.values()).items())),
        }
        steps = int(runner.pipeline.scheduler.config.num_train_timesteps)
        notes = [
            *sharing.lines(),
            f"error by branch, each alone: {_list(found.alone)}",
            *(
                [f"error where the router finds the branch named in the prompt: {_list(found.routed)}"]
                if learned
                else []
            ),
            *notes,
        ]
        return Outcome(
            components, mean.error, self._carried_shares(commons, components), left_out,
            fidelity.document_field(mean, steps, **facts), training, notes, self.names,
        )  # fmt: skip

    def _carried_shares(
        self, commons: Mapping[ModuleKey, Common], components: Mapping[str, Component]
    ) -> dict[str, float]:
        """Of each component, the share of what is felt of its weights that the carried ranks hold."""
        held: dict[str, float] = {}
        whole: dict[str, float] = {}
        for (name, module), found in commons.items():
            layer = components[name].layers.get(module) if name in components else None
            held[name] = held.get(name, 0.0) + float(found.gains[: layer.rank if layer else 0].sum())
            whole[name] = whole.get(name, 0.0) + float(found.whole.sum())
        return {name: held[name] / whole[name] for name in whole if whole[name]}

    def _left_out(self, components: Mapping[str, Component]) -> dict[str, str]:
        found: dict[str, str] = {}
        for change in (change for pair in self.pairs for change in pair.changes):
            key, name = change.key, change.name
            if change.bias is not None:
                found[f"{name}.bias"] = _PER_LAYER
            if key not in self.changes and change.weight is not None:
                found[name] = _PER_LAYER
            elif (
                change.weight is not None and change.module not in components.get(change.component, Component()).layers
            ):
                found[name] = _DEAR
        return found


def _errors(found: Mapping[str, fidelity.Fidelity]) -> dict[str, float]:
    return {name: float(f"{one.error:.4g}") for name, one in found.items()}


def _list(found: Mapping[str, fidelity.Fidelity]) -> str:
    return ", ".join(f"{name} {one.error:.4f}" for name, one in found.items())


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
