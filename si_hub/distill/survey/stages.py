"""What running a pair's pipeline says about the parts of their difference: kept as it goes, shared between processes.

Four stages: states of the tuned model's own trajectories; moments of every layer, on the midpoint of base and tuned
weights; the pieces of every change (`curvature`); the effects of every part (`effects`). The unit of work is a batch
of states or a layer, whoever does it, so a killed run and any number of processes end with the same numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from si_hub.distill.pair.change import Change, ModuleKey
from si_hub.distill.pair.matching import Pair
from si_hub.distill.request import SurveyOptions
from si_hub.distill.running import trajectory
from si_hub.distill.running.fidelity import Measure, references
from si_hub.distill.running.runner import Runner
from si_hub.distill.running.states import States
from si_hub.distill.running.tracing import Observer, trace
from si_hub.distill.survey.cores import Cores
from si_hub.distill.survey.curvature import Curvature, limit_of, pieces
from si_hub.distill.survey.effects import ChangeParts, Effects
from si_hub.distill.survey.plan import Pace, Tries, cost_of
from si_hub.distill.survey.slopes import half_width
from si_hub.report.progress import Progress
from si_hub.storage.tensors import Tensor
from si_hub.tuner.kinds import kind_of
from si_hub.work import fingerprints
from si_hub.work.folder import Work, WorkEntry
from si_hub.work.processes import Processes
from si_hub.work.seeds import seed_of

#: Of what the stages compute: what another version of them has kept is not used.
VERSION = 10
#: Share of its own weight that a prediction of something else than noise keeps where it hardly says any noise: errors
#: there are small as noise, and decide what a picture shows.
EVEN = 0.3
#: Where between base and tuned weights the prediction is linearised.
MIDPOINT = 0.5
#: States of each held-out trajectory that adapters are measured on.
HELD_OUT_STATES = 5
#: Parts into which the states are cut; what a killed run loses is at most one.
CHUNKS = 8
#: Numbers of the latents of a batch, at most.
_BATCH_NUMBERS = 1 << 16

#: Tensors and facts of an entry.
Made = tuple[Mapping[str, torch.Tensor], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Findings:
    """What a survey found.

    Attributes:
        parts: of each module.
        columns: module and name of each part.
        effects: ``[rows, parts]``.
        target: ``[rows]``: the effect of all of the change on the same projections, parts or not.
        samples: ``[rows]``: which state a row is of.
    """

    parts: dict[ModuleKey, ChangeParts]
    columns: list[tuple[ModuleKey, str]]
    effects: torch.Tensor
    target: torch.Tensor
    samples: torch.Tensor


@dataclass(slots=True)
class Survey:
    """The stages, each of which is done once for all.

    Attributes:
        runner: the pipeline.
        prompts: one a trajectory.
        held_out: one a trajectory that adapters are measured on.
        settings: how thoroughly.
        work: where results are kept.
        crew: the processes that share the work.
        progress: called with (work done, all work).
        limit: width up to which moments are whole matrices; ``None`` where these layers alone decide.
        tell: called with a line of words: what the survey will take, and what it is doing.
        tries: adapters that are then made of it.
    """

    runner: Runner
    prompts: Sequence[str]
    held_out: Sequence[str]
    settings: SurveyOptions
    work: Work
    crew: Processes
    progress: Progress | None = None
    limit: int | None = None
    tell: Callable[[str], None] | None = None
    tries: Tries = field(default_factory=Tries)
    _states: States | None = field(default=None, init=False)

    @property
    def pair(self) -> Pair:
        return self.runner.pair

    @property
    def batch(self) -> int:
        """States at once; one where the denoiser's layers see the tokens of all samples in one row."""
        if self.runner.listed:
            return 1
        return self.settings.batch or max(1, min(32, _BATCH_NUMBERS // self.runner.latent_numbers))

    def findings(self) -> Findings:
        """The effects of all parts; from what is kept where it is."""
        if self.tell and self.work.load("states 0") is None:
            cost = cost_of(self, HELD_OUT_STATES, CHUNKS)
            self.tell(cost.as_text())
            Pace(self.runner.denoiser, sum(cost.calls.values()), self.tell)
        return self.effects_of(self._parts())

    def effects_of(self, parts: dict[ModuleKey, ChangeParts]) -> Findings:
        """The effects of these parts; what is kept must be of the same ones."""
        shares = self.chunks_of(self.states())
        near = half_width(self.pair.changes, self.runner.dtype)
        entries = self.keep("effects", len(shares), lambda k: self._effects(shares[k], parts, k, near))
        held = [{name: tensor.torch() for name, tensor in entry.tensors.items()} for entry in entries]
        joined = {name: torch.cat([one[name] for one in held]) for name in ("effects", "target", "samples")}
        return Findings(parts, Effects(parts).columns, joined["effects"], joined["target"], joined["samples"])

    def states(self) -> States:
        """States of the tuned model's trajectories, in the prompts' order."""
        if self._states is None:
            self._states = self._sample("states", self.prompts, self.settings.states)
        return self._states

    def measure(self) -> Measure:
        """What measures adapters, on trajectories of held-out prompts and seeds."""
        states = self._sample("held out", self.held_out, HELD_OUT_STATES)
        [kept] = self.keep("reference", 1, lambda k: (references(self.runner, states, self.batch), {}))
        return Measure(self.runner, states, self.batch, kept.tensors["tuned"].torch(), kept.tensors["base"].torch())

    def _sample(self, stage: str, prompts: Sequence[str], each: int) -> States:
        """So many states of each prompt's trajectory; every stage has noise of its own."""
        size = max(1, self.batch // 2)
        starts = range(0, len(prompts), size)

        def sample(k: int) -> Made:
            self.runner.mix(1.0)
            chosen = prompts[starts[k] : starts[k] + size]
            seeds = [seed_of(self.settings.seed, stage, starts[k] + place) for place in range(len(chosen))]
            steps = trajectory.trajectories(self.runner, chosen, seeds, self.settings.sampling_steps)
            return trajectory.pick(steps, each, trajectory.NULL_SHARE, seeds).as_tensors()

        return States.join([States.from_entry(entry) for entry in self.keep(stage, len(starts), sample)])

    def curvature(self) -> WorkEntry:
        """The moments of every layer over all states, as `Curvature.add_up` takes them."""
        whole, parts = self._stage_name("curvature"), self._stage_name("moments")
        moments: list[WorkEntry] = []
        if self.work.load(f"{whole} 0") is None:
            shares = self.chunks_of(self.states())
            moments = self.keep(parts, len(shares), lambda k: self._moments(shares[k], k))

        def total(_: int) -> Made:
            found = Curvature(self.low_rank_changes(), self._limit(), torch.device("cpu"))
            found.add_up([values_of(entry) for entry in moments])
            return found.as_tensors(), {}

        [kept] = self.keep(whole, 1, total)
        self.let_go(parts)
        return kept

    def _stage_name(self, stage: str) -> str:
        """The name of a stage whose entries depend on the limit."""
        return stage if self.limit is None else f"{stage}{_UP_TO}{self.limit}"

    def let_go(self, stage: str) -> None:
        """Throw away what is kept of a stage in chunks."""
        if self.crew.main:
            self.work.drop([f"{stage} {k}" for k in range(CHUNKS)])

    def _limit(self) -> int:
        return limit_of(self.low_rank_changes()) if self.limit is None else self.limit

    def elsewhere(self, work: Work) -> Survey:
        """The same survey; what comes next is kept in another folder."""
        other = replace(self, work=work)
        other._states = self.states()
        return other

    def chunks_of(self, states: States) -> list[States]:
        """States in at most `CHUNKS` parts of whole batches."""
        return states.batches(math.ceil(math.ceil(len(states) / self.batch) / CHUNKS) * self.batch)

    def low_rank_changes(self) -> list[Change]:
        """The changes whose weight's difference is cut into pieces: linear layers and ungrouped convolutions."""
        live = self.runner.modules(self.pair.changes)
        return [
            change
            for change in self.pair.changes
            if change.weight and (module := live.get(change.key)) is not None
            if kind_of(module, change.module).low_rank and getattr(module, "groups", 1) == 1
        ]

    def _parts(self) -> dict[ModuleKey, ChangeParts]:
        """The parts of every change whose module can be called."""
        layered = self.low_rank_changes()
        names = [f"pieces {k}" for k in range(len(layered))]
        moments: list[WorkEntry] = []
        if any(self.work.load(name) is None for name in names):
            shares = self.chunks_of(self.states())
            moments = self.keep("moments", len(shares), lambda k: self._moments(shares[k], k))
        entries = self.keep("pieces", len(layered), lambda k: self._pieces(layered[k], moments))
        self.let_go("moments")
        found = {change.key: entry for change, entry in zip(layered, entries, strict=True)}
        live = self.runner.modules(self.pair.changes)
        return {key: parts_of(change, found.get(key)) for change in self.pair.changes if (key := change.key) in live}

    def _moments(self, states: States, chunk: int) -> Made:
        curvature = Curvature(self.low_rank_changes(), self._limit(), self.runner.device)
        modules = self.runner.modules(curvature.changes)
        for batch, number in self._batches(states, chunk):
            self._backward(batch, modules, curvature.observe, 1, seed_of(self.settings.seed, "moments", number))
        tensors = curvature.as_tensors()
        # Hooks of a graph may keep who observed it for long.
        curvature.moments.clear()
        return tensors, {}

    def _pieces(self, change: Change, moments: Sequence[WorkEntry]) -> Made:
        delta = change.delta()
        assert delta is not None
        curvature = Curvature([change], self._limit(), self.crew.solver)
        curvature.add_up([values_of(entry) for entry in moments])
        [(inputs, outputs)] = curvature.moments.values()
        seed = seed_of(self.settings.seed, change.name, 0)
        generator = torch.Generator(self.crew.solver).manual_seed(seed)
        found = pieces(delta.to(self.crew.solver), inputs, outputs, self.settings.pieces, generator)
        sides = {"down": found.down, "up": found.up, "seen": found.seen, "felt": found.felt}
        return {**sides, **(found.cores.as_tensors() if found.cores else {})}, {}

    def _effects(self, states: States, parts: dict[ModuleKey, ChangeParts], chunk: int, near: float) -> Made:
        """Effects in one chunk of states, and what all of the change does there, measured so near to the midpoint.

        That is the slope of the predictions at the midpoint, and not the difference of their ends: what of it is no
        first-order effect of any part would be noise to whoever fits parts to it.
        """
        ends: list[list[torch.Tensor]] = []
        for share in (MIDPOINT - near, MIDPOINT + near):
            self.runner.mix(share)
            with torch.no_grad():
                ends.append([self.runner(batch, even_scale(batch.scale)) for batch, _ in self._batches(states, chunk)])
        effects = Effects(parts)
        modules = self.runner.modules(change for change in self.pair.changes if change.key in parts)
        rows: list[torch.Tensor] = []
        target: list[torch.Tensor] = []
        samples: list[torch.Tensor] = []
        for (batch, number), before, after in zip(self._batches(states, chunk), *ends, strict=True):
            first, slope = number * self.batch, (after - before) / (2 * near)

            def keep(probe: torch.Tensor, change: torch.Tensor = slope, first: int = first) -> None:
                rows.append(effects.take())
                target.append((change * probe).flatten(1).sum(1).cpu())
                samples.append(torch.arange(first, first + len(change)))

            effects.begin(len(batch))
            seed = seed_of(self.settings.seed, "effects", number)
            self._backward(batch, modules, effects.observe, self.settings.probes, seed, keep)
        return {"effects": torch.cat(rows), "target": torch.cat(target), "samples": torch.cat(samples)}, {}

    def _batches(self, states: States, chunk: int) -> list[tuple[States, int]]:
        """Batches of a chunk with their numbers among all."""
        first = chunk * math.ceil(math.ceil(len(self.states()) / self.batch) / CHUNKS)
        return [(batch, first + k) for k, batch in enumerate(states.batches(self.batch))]

    def _backward(
        self,
        batch: States,
        modules: Mapping[ModuleKey, torch.nn.Module],
        observe: Observer,
        probes: int,
        seed: int,
        after: Callable[[torch.Tensor], None] | None = None,
    ) -> None:
        """Gradients of random projections of the prediction, on the midpoint; ``after`` is called with each."""
        self.runner.mix(MIDPOINT)
        generator = torch.Generator().manual_seed(seed)
        with trace(modules, len(batch), observe), torch.enable_grad():
            predicted = self.runner(batch, even_scale(batch.scale))
            for turn in range(probes):
                signs = torch.randint(0, 2, predicted.shape, generator=generator).to(predicted) * 2 - 1
                if modules:
                    (predicted * signs).sum().backward(retain_graph=turn + 1 < probes)  # type: ignore[no-untyped-call]
                if after is not None:
                    after(signs)

    def keep(
        self, stage: str, count: int, make: Callable[[int], Made], span: tuple[float, float] | None = None
    ) -> list[WorkEntry]:
        """Entries ``stage 0``, ``stage 1`` ...; those that are missing are made, by whichever process's turn it is.

        Args:
            stage: its name.
            count: of the entries.
            make: makes one.
            span: where the stage begins and how long it is, in hundredths of what is under way, where it is none of
                `STAGES`; whoever has it tells what it does.
        """
        kind = stage.partition(_UP_TO)[0]
        if span is None and self.tell and self.work.load(f"{stage} {count - 1}") is None:
            self.tell(PHASES[kind])
        for k in self.crew.share(range(count), lambda k: 1.0):
            if self.work.load(f"{stage} {k}") is None:
                made, facts = make(k)
                # Moments are gigabytes: each is let go when it has been copied.
                made = dict(made)
                tensors = {name: Tensor.from_torch(made.pop(name)) for name in tuple(made)}
                self.work.save(f"{stage} {k}", tensors, facts)
                del tensors
            if self.progress:
                begin, length = span or STAGES[kind]
                self.progress(round(begin + length * (k + 1) / count), 100)
        self.crew.wait()
        entries = [self.work.load(f"{stage} {k}") for k in range(count)]
        assert all(entries), stage
        return [entry for entry in entries if entry]


_UP_TO = " up to "
#: Where each stage begins and how long it is, in hundredths of the whole.
STAGES = {
    "states": (0, 15), "moments": (15, 15), "curvature": (30, 10), "pieces": (30, 10), "effects": (40, 45),
    "held out": (85, 10), "reference": (95, 5),
}  # fmt: skip


#: What each stage does, for people.
PHASES = {
    "states": "walking the tuned model's own sampling", "moments": "looking at what each layer sees and is felt by",
    "curvature": "adding up what the layers see", "pieces": "cutting every difference into pieces",
    "effects": "measuring what each piece does to the prediction", "held out": "walking prompts to measure on",
    "reference": "asking base and tuned model on them",
    "fit": "fitting what was chosen to what the tuned model predicts",
}  # fmt: skip


def values_of(entry: WorkEntry) -> dict[str, Callable[[], torch.Tensor]]:
    """What gives each tensor of an entry."""
    return {name: tensor.torch for name, tensor in entry.tensors.items()}


def parts_of(change: Change, found: WorkEntry | None) -> ChangeParts:
    """The parts of one change, its pieces from what was kept."""
    bias = change.bias_delta()
    if found is None:
        return ChangeParts(weight=change.delta(), bias=bias)
    held = {name: tensor.torch() for name, tensor in found.tensors.items()}
    cores = Cores.from_tensors(held)
    return ChangeParts(
        held["down"], held["up"], bias=bias, kernel=tuple(change.shape[1:]), cores=cores,
        seen=held["seen"], felt=held["felt"],
    )  # fmt: skip


def even_scale(scale: torch.Tensor) -> torch.Tensor:
    """What predictions are multiplied with before parts are compared: ``√((1 − EVEN) scale² + EVEN)``.

    On the miniature, which predicts v, this left less at every timestep than predicted noise itself: 0.080 instead of
    0.089 of its error, 0.140 instead of 0.200 of the distance of pictures (ink, at the size of LyCORIS's dim 2).
    """
    return ((1.0 - EVEN) * scale.square() + EVEN).sqrt()


def survey_plan(
    pair: Pair, prompts: Sequence[Sequence[str]], settings: SurveyOptions, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that the stages depend on."""
    from si_hub import __version__

    digest = hashlib.sha256(json.dumps(prompts).encode()).hexdigest()
    return {
        "tool": __version__, "version": VERSION, "torch": torch.__version__,
        "models": [fingerprints.model(pair.base.path), fingerprints.model(pair.tuned.path)],
        "config": fingerprints.model(pair.base.configuration) if pair.base.configuration else None,
        "prompts": digest, "settings": asdict(settings),
        "options": {name: str(options[name]) for name in sorted(options)},
    }  # fmt: skip
