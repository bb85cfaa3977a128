"""``--method svd``: the best low-rank form of every weight difference, from the weights alone.

Layers stream from memory-mapped files one at a time; the largest of them is the peak of the memory.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import torch

from si_hub.adapter import Component, Layer
from si_hub.distill.budget.filesize import DOCUMENT, GENEROUS_LEAF, Price
from si_hub.distill.budget.knee import SHARE
from si_hub.distill.budget.rounding import LADDER, ROUNDING_COST
from si_hub.distill.pair.change import Change, not_finite
from si_hub.distill.pair.matching import Pair
from si_hub.distill.request import Request
from si_hub.distill.result import Outcome
from si_hub.distill.running.storing import FULL, HALF, ONE_BYTE, store_leaves
from si_hub.distill.survey.lowrank import truncate
from si_hub.errors import UsageError
from si_hub.format.whole import INT8, from_file, to_file
from si_hub.report.text import size_text
from si_hub.storage.tensors import Tensor, torch_names
from si_hub.words import keep_words, label, switch
from si_hub.work.folder import Work, WorkEntry
from si_hub.work.processes import Processes, processes

#: The rank of every layer where no budget is given, if a twentieth of the tuned model's bytes holds it.
DEFAULT_RANK = 32
#: Layers that are worked on at once at most: each needs a few times its size in memory.
_WORKERS = 4
#: Embeddings and bare parameters are carried whole while they are no more than this many times what a pair would cost.
_DENSE_FACTOR = 4
#: Why a module is left out: one text a kind, so that the document can count them.
_LARGE = "no low-rank pair can stand for it"
_VOLUME = "a three-dimensional convolution, which adapters do not reach"

How = Literal["pair", "dense", "leave"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How one change is carried, and why not where it is not."""

    change: Change
    how: How
    rank: int = 0
    reason: str = ""

    @property
    def name(self) -> str:
        return self.change.name

    @property
    def count(self) -> int:
        """Numbers that it puts into the adapter."""
        weight = 0
        if self.change.weight is not None and self.how != "leave":
            weight = self.rank * sum(self.change.matrix) if self.how == "pair" else math.prod(self.change.shape)
        return weight + (self.change.bias[0].count if self.change.bias else 0)

    def size(self, dtype: str) -> int:
        """Bytes that it adds to the file, header included."""
        price = Price(dtype)
        tensors = (self.how == "dense") + bool(self.change.bias)
        size = self.count * price.item + price.entries(self.name, tensors, GENEROUS_LEAF)
        if self.how != "pair":
            return size
        out, width = self.change.matrix
        pair = self.rank * (price.rank(out, width) - price.item * (out + width))
        return size + pair + price.pair(self.name, GENEROUS_LEAF)


def run(pairs: Sequence[Pair], request: Request, work: Work) -> Outcome:
    """One pair's adapter at a uniform rank.

    Raises:
        UsageError: several tuned models, or a fidelity, which only running the pipeline can measure.
    """
    if len(pairs) != 1:
        raise UsageError("the method svd takes one tuned model", found=len(pairs), hint=f"Leave {label('method')} out.")
    if request.fidelity is not None:
        raise UsageError(
            "fidelity is measured by running the pipeline, which the method svd does not", key=label("fidelity"),
            hint=f"Give {label('rank')} or {label('size')}, or another {label('method')}.",
        )  # fmt: skip
    [pair] = pairs
    crew = processes(request.device)
    for dtype in [request.dtype] if request.dtype else LADDER:
        made = _make(pair, request, dtype, work, crew)
        if request.dtype or dtype == FULL or made.costs_little():
            break
    return _outcome(pair, made, request)


@dataclass(frozen=True, slots=True)
class Carried:
    """Every change as it is carried.

    Attributes:
        plans: how.
        entries: the leaves by name, with their squared errors.
    """

    plans: Sequence[Plan]
    entries: Mapping[str, WorkEntry]

    def costs_little(self) -> bool:
        """Whether the leaves leave hardly more than they would in float32."""
        error, unrounded = (sum(e.facts[key] for e in self.entries.values()) for key in ("error", "unrounded"))
        return bool(error <= (1.0 + ROUNDING_COST) ** 2 * unrounded)


def _make(pair: Pair, request: Request, dtype: str, work: Work, crew: Processes) -> Carried:
    """Every layer at the rank that was asked for, or that fits; kept as it goes."""
    rank = request.rank or _rank_for(pair, request, dtype)
    plans = [plan_of(change, rank, embeddings=request.embeddings) for change in pair.changes]
    stage = "" if request.dtype else f"{dtype} "
    _work(plans, request, dtype, stage, work, crew)
    crew.wait()
    entries = {item.name: work.load(f"{stage}{item.name}") for item in plans}
    return Carried(plans, {name: entry for name, entry in entries.items() if entry})


def plan_of(change: Change, rank: int, *, embeddings: bool = False) -> Plan:
    """How a change is carried at a rank: as a pair, whole where that costs no more, or not at all with the reason."""
    if change.weight is None:
        return Plan(change, "dense")
    count = math.prod(change.shape)
    out, width = change.matrix
    if change.kind in {"linear", "conv"}:
        if len(change.shape) > 4:
            return Plan(change, "leave", reason=_VOLUME)
        depthwise = change.kind == "conv" and change.shape[1] == 1
        rank = min(rank, out, width)
        return Plan(change, "dense") if depthwise or rank * (out + width) >= count else Plan(change, "pair", rank)
    if change.kind == "norm" or embeddings or count <= _DENSE_FACTOR * rank * (out + width):
        return Plan(change, "dense")
    return Plan(change, "leave", reason=_LARGE)


def _rank_for(pair: Pair, request: Request, dtype: str) -> int:
    """The highest uniform rank that keeps the adapter within the wanted size; without one `DEFAULT_RANK`, or less.

    Raises:
        UsageError: not even rank 1 is as small as was wanted.
    """

    def size(rank: int) -> int:
        plans = (plan_of(change, rank, embeddings=request.embeddings) for change in pair.changes)
        return sum(item.size(dtype) for item in plans) + DOCUMENT

    limit = int(SHARE * pair.tuned.nbytes) if request.size is None else request.size
    low, high = 0, max(min(change.matrix) for change in pair.changes)
    if request.size is None:
        low, high = 1, min(high, DEFAULT_RANK)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if size(middle) <= limit else (low, middle - 1)
    if not low:
        raise UsageError(
            "no adapter of rank 1 is that small", key=label("size"), expected=f"{size_text(size(1))} or more",
            found=size_text(limit),
        )  # fmt: skip
    return low


def _work(plans: Sequence[Plan], request: Request, dtype: str, stage: str, work: Work, crew: Processes) -> None:
    """This process's share of the layers, each kept under its name after ``stage`` as soon as it is done.

    A layer is one thread's: a layer's matrices are too small to share between threads, and so its numbers depend on
    nothing but itself, however many threads and processes there are.
    """
    mine = crew.share(plans, lambda item: float(item.change.count))
    total, done = sum(item.change.count for item in mine), 0

    def finish(item: Plan) -> Plan:
        if work.load(f"{stage}{item.name}") is None:
            leaves, facts = compute(item, dtype, request.seed, crew.solver)
            work.save(f"{stage}{item.name}", leaves, facts)
        return item

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    workers = min(threads, _WORKERS) if crew.solver.type == "cpu" else 1
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for item in pool.map(keep_words(finish), mine):
            done += item.change.count
            if request.progress:
                request.progress(done, total)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def compute(item: Plan, dtype: str, seed: int, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The leaves of one layer; its squared norm and error, and what the error was before rounding, as facts."""
    stored = {name: kind for kind, name in torch_names().items()}[HALF if dtype == ONE_BYTE else dtype]
    change = item.change
    leaves: dict[str, torch.Tensor] = {}
    pair: dict[str, Tensor] = {}
    norm = error = unrounded = 0.0
    if (delta := change.delta()) is not None:
        norm = error = _finite(_squared_norm(delta), item.name)
        if item.how == "pair":
            delta = delta.to(device)
            down, up = truncate(delta, item.rank, generator=_generator(seed, item.name))
            pair = store_leaves({"down.weight": Tensor.from_torch(down), "up.weight": Tensor.from_torch(up)}, dtype)
            rest = delta.reshape(delta.shape[0], -1)
            unrounded = _squared_norm(torch.addmm(rest, up, down.flatten(1), alpha=-1))
            down, up = (pair[leaf].torch().to(device, torch.float32) for leaf in ("down.weight", "up.weight"))
            rest.addmm_(up, down.flatten(1), alpha=-1)
            error = _squared_norm(rest)
        elif item.how == "dense":
            leaf = "param_delta" if change.kind == "parameter" else "weight_delta"
            leaves[leaf] = delta.to(stored)
            error = _squared_norm(delta - leaves[leaf].float())
        else:
            unrounded = norm
    if (bias := change.bias_delta()) is not None:
        leaves["bias_delta"] = bias.to(stored)
        norm += _finite(_squared_norm(bias), item.name)
        error += _squared_norm(bias - leaves["bias_delta"].float())
    found = pair | {name: Tensor.from_torch(value) for name, value in leaves.items()}
    return to_file(found), {
        "norm": norm, "error": error, "unrounded": unrounded,
    }  # fmt: skip


def _finite(norm: float, name: str) -> float:
    """The norm, which is no number where one of the two models has NaN or infinity there."""
    if not math.isfinite(norm):
        raise not_finite(name)
    return norm


def _squared_norm(tensor: torch.Tensor) -> float:
    """Squared Frobenius norm."""
    return float(torch.linalg.vector_norm(tensor)) ** 2


def _generator(seed: int, name: str) -> torch.Generator:
    """A layer's own random numbers: the same whoever computes it, and in whatever order."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _outcome(pair: Pair, made: Carried, request: Request) -> Outcome:
    plans, entries = made.plans, made.entries
    components: dict[str, Component] = {}
    norms: dict[str, float] = {}
    errors: dict[str, float] = {}
    for item in plans:
        name, entry = item.change.component, entries[item.name]
        norms[name] = norms.get(name, 0.0) + entry.facts["norm"]
        errors[name] = errors.get(name, 0.0) + entry.facts["error"]
        if entry.tensors:
            class_name = pair.base.architecture.components[name].class_name
            component = components.setdefault(name, Component(class_name))
            leaves = from_file(entry.tensors, item.name, (INT8,), pair.tuned.path)
            component.layers[item.change.module] = Layer(leaves)
    carried = {name: 1 - errors[name] / norms[name] for name in norms if norms[name]}
    error = math.sqrt(sum(errors.values()) / sum(norms.values())) if any(norms.values()) else 0.0
    left_out = {item.name: item.reason for item in plans if item.how == "leave"}
    measurement = {
        "measure": "relative Frobenius norm of the weights' difference; no pipeline was run",
        "carried": {name: float(f"{share:.4g}") for name, share in carried.items()},
        "left_out": dict(sorted(Counter(left_out.values()).items())),
    }
    large = [item.change for item in plans if item.reason == _LARGE]
    notes = (
        [f"{switch('embeddings')} carries embeddings whole: {sum(map(_numbers, large)):,} numbers more"]
        if large
        else []
    )
    return Outcome(components, error, carried, left_out, measurement, notes=notes)


def _numbers(change: Change) -> int:
    """Numbers in the weight of a change."""
    return math.prod(change.shape)
