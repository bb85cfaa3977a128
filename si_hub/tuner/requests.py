"""What one request asks of a model's adapters: in its own thread or task, row by row, apart from what others ask.

A `RowPlan` is what a request declares for one model. While the model runs, a `ModelRun` holds it together with what is
known of that run. Both are found through context variables, so no thread and no task sees another's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count
from operator import mul
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from si_hub.errors import UsageError
from si_hub.schedule import Instant, Timed, at
from si_hub.tuner.operator import Selection, select, wide_dtype
from si_hub.tuner.regions import Places, mask_at, scene_of

#: The next moment in which something of a model is born.
born = count().__next__


class Shared(Protocol):
    """What all layers of one model share (`si_hub.tuner.layer.Control`).

    Attributes:
        born: when it was made, among requests.
        standing: what acts without any request, as a plan; None where no weight of that changes by itself.
    """

    born: int
    standing: Callable[[], RowPlan] | None


#: From a model and its arguments to the instant they are for.
Watchmaker = Callable[[nn.Module, tuple[Any, ...], Mapping[str, Any]], Instant]
#: A number, or numbers by layer path.
PathWeight = float | Mapping[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Role:
    """What one adapter does in one row of a batch.

    Attributes:
        adapter: its name.
        weight: w, or w by layer path.
        styles: a weight per branch, None for the router.
        timed: factors of w by the instant.
        branches_timed: factors of each branch's weight by the instant.
        mask: ``[H, W]``, a factor of what is added at each place of the picture; None for one.
        elsewhere: with a mask, the factor of what has no place in the picture.
    """

    adapter: str
    weight: PathWeight = 1.0
    styles: tuple[float, ...] | None = None
    timed: tuple[Timed, ...] = ()
    branches_timed: tuple[tuple[Timed, ...], ...] = ()
    mask: Tensor | None = None
    elsewhere: float = 0.0

    def weight_at(self, path: str) -> float:
        return self.weight.get(path, 1.0) if isinstance(self.weight, Mapping) else self.weight


Row = tuple[Role, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """The rows that an adapter acts in the same way in: with a router, or with styles."""

    adapter: str
    parts: Mapping[int, Role]


class RowPlan:
    """What a request asks of one model: its rows, each the parts of the adapters that act in it.

    Attributes:
        rows: one for every picture of the batch; a single one stands for all of any batch.
        names: the adapters that are named.
        timed: whether any weight depends on the instant.
        masked: whether anything acts in a part of the picture.
        clock: tells the instant of a call of the model.
    """

    def __init__(self, rows: Sequence[Row], clock: Watchmaker | None = None) -> None:
        self.rows = tuple(rows[:1]) if all(row == rows[0] for row in rows) else tuple(rows)
        self.clock = clock
        self.names = {part.adapter for row in self.rows for part in row}
        self.timed = any(role.timed or any(role.branches_timed) for row in self.rows for role in row)
        self.masked = any(role.mask is not None for row in self.rows for role in row)
        self._folded: dict[int, RowPlan] = {}
        slots: dict[tuple[str, int, bool, int, tuple[Any, ...]], dict[int, Role]] = {}
        for number, row in enumerate(self.rows):
            seen: dict[str, int] = {}
            for part in row:
                slot = seen[part.adapter] = seen.get(part.adapter, -1) + 1
                # A router's branches are weighed for all of its rows at once.
                routed = id(part.branches_timed) if part.styles is None and part.branches_timed else 0
                region = () if part.mask is None else (*part.mask.shape, part.elsewhere)
                slots.setdefault((part.adapter, slot, part.styles is None, routed, region), {})[number] = part
        # By name, so that the order of a request never changes a bit of the sum.
        self.groups = [_Group(key[0], parts) for key, parts in sorted(slots.items())]

    def for_batch(self, batch: int) -> RowPlan:
        """The plan for a batch that repeats the rows, or shares each instance among consecutive rows.

        Guidance repeats a whole batch; a text encoder sees one prompt for several pictures of it.

        Raises:
            UsageError: the batch does not divide into the rows; pictures of one prompt that ask different things.
        """
        count = len(self.rows)
        if count == 1 or (batch and batch % count == 0):
            return self
        if batch not in self._folded:
            if not batch or count % batch:
                raise UsageError(
                    "the batch does not divide into the rows of the request", expected=f"a multiple of {count}",
                    found=batch, hint="rows has one entry for every picture of the call",
                )  # fmt: skip
            blocks = [self.rows[start : start + count // batch] for start in range(0, count, count // batch)]
            if any(row != block[0] for block in blocks for row in block):
                raise UsageError(
                    "pictures of one prompt ask different things of the text encoder",
                    hint="Repeat the prompt in a list in place of num_images_per_prompt",
                )
            self._folded[batch] = RowPlan([block[0] for block in blocks], self.clock)
        return self._folded[batch]


_NOTHING = RowPlan([()])


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """One adapter's share in one layer's batch.

    Attributes:
        weight: w, or one for every instance.
        styles: the branches that are chosen, None for the router.
        index: the instances that it acts in, None for all.
        factors: of each branch's weight that a router gives, None for ones.
        mask: what the contribution is multiplied with, broadcast over it; None for one.
    """

    weight: float | Tensor
    styles: Selection | None
    index: Tensor | None
    factors: tuple[float, ...] | None = None
    mask: Tensor | float | None = None


@dataclass(slots=True, eq=False)
class ModelRun:
    """One run of a model under a plan.

    Attributes:
        owner: what all layers of the model share.
        plan: for this batch.
        batch: instances of the model's input, None where the model is not called as a whole.
        now: where in the drawing it is, where that matters.
        scene: where the places of its input are, where that matters and is known.
    """

    owner: Shared
    plan: RowPlan
    batch: int | None
    now: Instant | None = None
    scene: Places | None = None
    _kept: dict[Any, Any] = field(default_factory=dict)

    def shares(self, name: str, path: str, branches: int, like: Tensor, channels_last: bool = True) -> Iterator[Share]:
        """What the adapter ``name`` does in the layer ``path``.

        Args:
            like: the layer's output, a batch of instances.
            channels_last: where its channels are.

        Raises:
            UsageError: rows ask different things where the layer's instances are not those of the batch; a mask where
                places are not known.
        """
        instances = like.shape[0]
        for number, group in enumerate(self.plan.groups):
            if group.adapter != name:
                continue
            weights = {row: self._weight(part, path) for row, part in group.parts.items()}
            if not any(weights.values()):
                continue
            everywhere = len(weights) == len(self.plan.rows)
            masks = {id(part.mask) for part in group.parts.values()}
            mask = self._mask(group, list(group.parts), path, like, channels_last) if masks != {id(None)} else None
            if isinstance(mask, float) and not mask:
                continue
            values = set(weights.values())
            styles = {row: self._styles(part, branches) for row, part in group.parts.items()}
            factors = self.factors(next(iter(group.parts.values())), branches)
            if everywhere and len(values) == len(set(styles.values())) == len(masks) == 1:
                yield Share(values.pop(), self._select(styles[0], like), None, factors, mask)
                continue
            if instances != self.batch:
                raise UsageError(
                    "rows ask different things of a layer whose instances are not the batch's", key=path,
                    expected="the whole model, called with one instance for every row" if self.batch is None
                    else f"{self.batch} instances", found=instances, hint="Draw these rows one by one",
                )  # fmt: skip
            index, order = self._rows(number, group, like.device)
            weight = values.pop() if len(values) == 1 else self._weights(weights, order, like)
            chosen = self._select_rows(styles, order, like)
            if isinstance(mask, Tensor) and len(masks) > 1:
                mask = self._mask(group, order, path, like, channels_last)
            yield Share(weight, chosen, None if everywhere else index, factors, mask)

    def _mask(self, group: _Group, rows: list[int], path: str, like: Tensor, channels_last: bool) -> Tensor | float:
        """The masks of these rows in a layer, ``[1, ...]`` where all are one."""
        found = [mask for row in rows if (mask := group.parts[row].mask) is not None]
        same = all(mask is found[0] for mask in found)
        key = ("masks", tuple(map(id, found[:1] if same else found)), like.device, like.dtype)
        if key not in self._kept:
            self._kept[key] = torch.stack(found[:1] if same else found).to(like.device, like.dtype)
        elsewhere = group.parts[rows[0]].elsewhere
        where = (key, tuple(like.shape[1:]), path if like.ndim == 3 else "")
        if where not in self._kept:
            self._kept[where] = mask_at(self._kept[key], elsewhere, path, like, channels_last, self.scene)
        return self._kept[where]  # type: ignore[no-any-return]

    def one_weight(self, name: str, path: str) -> float:
        """The weight of an adapter where nothing tells rows apart.

        Raises:
            UsageError: rows ask different weights.
        """
        sums = [
            sum(self._weight(part, path) * (1.0 if part.mask is None else part.elsewhere) for part in row
                if part.adapter == name)
            for row in self.plan.rows
        ]  # fmt: skip
        if len(set(sums)) > 1:
            raise UsageError(
                "a bare parameter is the same for every row of a batch", key=path,
                found=", ".join(f"weight {weight:g}" for weight in sorted(set(sums))),
                hint="Draw these rows one by one",
            )  # fmt: skip
        return sums[0]

    def _rows(self, number: int, group: _Group, device: torch.device) -> tuple[Tensor, list[int]]:
        """The instances that a group acts in, and the row of each."""
        key = ("rows", number, device)
        if key not in self._kept:
            assert self.batch is not None
            where = [place for place in range(self.batch) if place % len(self.plan.rows) in group.parts]
            order = [place % len(self.plan.rows) for place in where]
            self._kept[key] = torch.tensor(where, device=device), order
        return self._kept[key]  # type: ignore[no-any-return]

    def _weights(self, weights: Mapping[int, float], order: list[int], like: Tensor) -> Tensor:
        values = tuple(weights[row] for row in order)
        key = ("weights", values, like.device, like.dtype)
        if key not in self._kept:
            self._kept[key] = torch.tensor(values, device=like.device, dtype=wide_dtype(like))
        return self._kept[key]  # type: ignore[no-any-return]

    def _select(self, styles: tuple[float, ...] | None, like: Tensor) -> Selection | None:
        key = ("styles", styles, like.device, like.dtype)
        if styles is not None and key not in self._kept:
            self._kept[key] = select([styles], like)
        return None if styles is None else self._kept[key]

    def _select_rows(
        self, styles: Mapping[int, tuple[float, ...] | None], order: list[int], like: Tensor
    ) -> Selection | None:
        if len(set(styles.values())) == 1:
            return self._select(styles[order[0]], like)
        rows = tuple(styles[row] or () for row in order)
        key = ("rows of styles", rows, like.device, like.dtype)
        if key not in self._kept:
            self._kept[key] = select(rows, like)
        return self._kept[key]  # type: ignore[no-any-return]

    def _weight(self, part: Role, path: str) -> float:
        weight = part.weight_at(path)
        if part.timed and weight:
            if (key := id(part)) not in self._kept:
                self._kept[key] = self._product(part.timed)
            weight *= self._kept[key]
        return weight

    def _styles(self, part: Role, branches: int) -> tuple[float, ...] | None:
        if part.styles is None or branches != len(part.styles):
            return None
        factors = self.factors(part, branches)
        return part.styles if factors is None else tuple(map(mul, part.styles, factors))

    def factors(self, part: Role, branches: int) -> tuple[float, ...] | None:
        """What the instant multiplies each branch's weight with."""
        if not any(part.branches_timed) or branches != len(part.branches_timed):
            return None
        if (key := ("factors", id(part))) not in self._kept:
            self._kept[key] = tuple(map(self._product, part.branches_timed))
        return self._kept[key]  # type: ignore[no-any-return]

    def _product(self, timed: tuple[Timed, ...]) -> float:
        """Raises UsageError outside of a call of the whole model, where no instant is known."""
        if timed and self.now is None:
            raise UsageError("weights by step need the whole model to be called, by its pipeline")
        return math.prod(at(one, self.now) for one in timed if self.now is not None)


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What a request asks.

    Attributes:
        plans: by the ``id`` of what all layers of a model share, which is kept with them.
        since: when it began, among the births of what was adapted.
        around: what was asked around it.
    """

    plans: Mapping[int, tuple[Shared, RowPlan]]
    since: int
    around: Asked | None


#: What the request that this thread or task is in asks.
_ASKED: ContextVar[Asked | None] = ContextVar("styleinject_asked", default=None)
#: The runs of models that this thread or task is in, innermost last.
_RUNS: ContextVar[tuple[ModelRun, ...]] = ContextVar("styleinject_runs", default=())


def ask(plans: Iterable[tuple[Shared, RowPlan]]) -> Asked:
    """From now on this thread or task asks ``plans``, and of other models what it asked before."""
    around = _ASKED.get()
    own = {id(owner): (owner, plan) for owner, plan in plans}
    asked = Asked(own if around is None else {**around.plans, **own}, born(), around)
    _ASKED.set(asked)
    return asked


def asked_now() -> Asked | None:
    """What this thread or task asks, innermost."""
    return _ASKED.get()


def stop_asking(asked: Asked) -> None:
    """What was asked before `ask` is asked again."""
    _ASKED.set(asked.around)


def current_call(owner: Shared) -> ModelRun | None:
    """The run of the model that this thread or task is in, where a request asks something of it."""
    runs = _RUNS.get()
    if runs and runs[-1].owner is owner:
        return runs[-1]
    plan = _plan_for(owner)
    return None if plan is None else ModelRun(owner, plan, None)


def _plan_for(owner: Shared) -> RowPlan | None:
    asked = _ASKED.get()
    known = None if asked is None else asked.plans.get(id(owner))
    if known is not None:
        return known[1]
    if asked is not None and owner.born > asked.since:
        # What was loaded into a model that had nothing when the request began is no part of it.
        return _NOTHING
    return None if owner.standing is None else owner.standing()


class Watch:
    """The two hooks on a whole model that tell its layers which run they are in."""

    def __init__(self, owner: Shared) -> None:
        self.owner = owner

    def begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the model."""
        plan = None if torch.compiler.is_compiling() else _plan_for(self.owner)
        if plan is not None:
            batch = batch_of(args, kwargs)
            now = plan.clock(model, args, kwargs) if plan.timed and plan.clock is not None else None
            scene = scene_of(model, args, kwargs) if plan.masked else None
            call = ModelRun(self.owner, plan if batch is None else plan.for_batch(batch), batch, now, scene)
            _RUNS.set((*_RUNS.get(), call))

    def end(self, _model: nn.Module, _args: Any, _output: Any) -> None:
        """Forward hook of the model, called after an exception too."""
        if torch.compiler.is_compiling():
            return
        runs = _RUNS.get()
        if runs and runs[-1].owner is self.owner:
            _RUNS.set(runs[:-1])

    def attach(self, model: nn.Module) -> None:
        if not any(getattr(hook, "__func__", None) is Watch.begin for hook in model._forward_pre_hooks.values()):
            model.register_forward_pre_hook(self.begin, with_kwargs=True)
            model.register_forward_hook(self.end, always_call=True)

    @staticmethod
    def detach(model: nn.Module) -> None:
        """Undo `attach`."""
        for hooks, ours in ((model._forward_pre_hooks, Watch.begin), (model._forward_hooks, Watch.end)):
            for key, hook in list(hooks.items()):
                if getattr(hook, "__func__", None) is ours:
                    del hooks[key]
                    model._forward_pre_hooks_with_kwargs.pop(key, None)
                    model._forward_hooks_always_called.pop(key, None)


#: What models call their batch, first come first.
_INPUTS = ("hidden_states", "sample", "input_ids", "inputs_embeds", "x")


def batch_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int | None:
    """Instances in a model's input: the first axis of its first tensor; the length of a list of them."""
    found = args[0] if args else next((kwargs[name] for name in _INPUTS if kwargs.get(name) is not None), None)
    if isinstance(found, Tensor):
        return found.shape[0] if found.ndim else None
    return len(found) if isinstance(found, list | tuple) else None
