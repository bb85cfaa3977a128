"""Requests: which adapters act, how strongly and in which row, for the calls of one thread or task alone."""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from si_hub.errors import UsageError
from si_hub.pipelines import registry
from si_hub.pipelines.cache import cache_of
from si_hub.pipelines.clock import Clock, is_timed
from si_hub.pipelines.offload import TURN
from si_hub.pipelines.running import Running, begin_use, end_use
from si_hub.pipelines.styles import check_styles, style_names
from si_hub.pipelines.weights import AdapterWeight, per_module, share_out
from si_hub.schedule import Timed, as_timed
from si_hub.tuner.door import find_door, watch_runs
from si_hub.tuner.requests import Asked, PathWeight, Role, RowPlan, ask, asked_now, stop_asking

#: What a request says of a weight: a number or table as everywhere, or one that changes by step.
AskedWeight: TypeAlias = "AdapterWeight | Timed"
StyleWeight: TypeAlias = "float | Sequence[float] | Timed"


@dataclass(frozen=True, slots=True)
class Act:
    """One adapter in a request.

    Attributes:
        adapter: its name.
        weight: as in ``set_styleinject_adapters``: a number, or a table by component, block or module; None is 1.
            Of denoisers, for all or by component, also a list with one number per step, a `WeightCurve`, or a function
            of an `Instant`; text encoders take 1 where it is for all.
        styles: weights of its branches, used as given, each a number or one by step; None is what ``set_styles``
            chose, or the router.
        mask: ``[H, W]``, of any size: a factor of what the adapter adds at each place of the picture, at the resolution
            of each layer. An adapter may be there several times, each with its mask and its styles.
        elsewhere: with a mask, the factor in layers that see no places: those of text and time, and whole text
            encoders. 0 keeps all outside of the mask as it is, in the layers that see places.
    """

    adapter: str
    weight: AskedWeight = None
    styles: Mapping[str, StyleWeight] | None = None
    mask: Tensor | None = field(default=None, compare=False)
    elsewhere: float = 0.0


#: What acts in a picture: nothing, an adapter by its name, one or several `Act`, or weights by adapter name.
Ask: TypeAlias = "str | Act | Mapping[str, AskedWeight] | Sequence[str | Act] | None"


class StyleInjectRequest:
    """What ``pipe.styleinject(...)`` returns: a context for calls of the pipeline, or called itself in its place.

    It may be entered again, also by several threads at once.
    """

    def __init__(self, pipeline: Any, rows: Sequence[Ask], styles: Mapping[str, StyleWeight] | None = None) -> None:
        self.pipeline = pipeline
        self._rows = rows
        self._styles = styles
        self._open: dict[Asked, Running] = {}

    def __enter__(self) -> StyleInjectRequest:
        """From here on, this thread or task draws with what the request names, and nothing else.

        Raises:
            UsageError: an adapter, style, component or block that is not there, a fused adapter, a compiled model.
            SiHubError: an adapter of an `AdapterCache` that cannot be loaded.
        """
        names = [name for asked in self._rows for name in _names(asked)]
        cache = cache_of(self.pipeline)
        if cache is not None:
            cache.prepare(names)
        with TURN:
            if cache is not None:
                cache.bring(self.pipeline, names)
            models = {name: model for name, model in registry.models(self.pipeline).items() if find_door(model)}
            rows = [_read(ask, self.pipeline, self._styles) for ask in self._rows]
            plans = plan_rows(self.pipeline, models, rows)
            for name, model in models.items():
                _check_runnable(self.pipeline, name)
                watch_runs(model)
            running = begin_use(models.values(), {act.adapter for row in rows for act in row})
            doors = ((name, find_door(model)) for name, model in models.items())
            asked = ask((door.control, plans[name]) for name, door in doors if door is not None)
            self._open[asked] = running
        return self

    def __exit__(self, *error: Any) -> None:
        asked = asked_now()
        if asked not in self._open:
            raise UsageError("the request was begun in another thread or task, or another one inside of it goes on")
        stop_asking(asked)
        end_use(self._open.pop(asked))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The pipeline's own call, within this request.

        Raises:
            UsageError: as `__enter__`; or there are not as many rows as pictures.
        """
        pictures = count_pictures(self.pipeline, args, kwargs)
        if len(self._rows) > 1 and pictures is not None and pictures != len(self._rows):
            raise UsageError(
                "rows has one entry for every picture of the call", key="rows", expected=f"{pictures} entries",
                found=len(self._rows),
            )  # fmt: skip
        with self:
            return self.pipeline(*args, **kwargs)


def make_request(
    pipeline: Any,
    adapters: Ask,
    weight: AskedWeight,
    styles: Mapping[str, StyleWeight] | None,
    rows: Sequence[Ask] | None,
) -> StyleInjectRequest:
    """The request of the arguments of ``pipe.styleinject``.

    Raises:
        UsageError: arguments that exclude each other.
    """
    if rows is not None:
        given = {"adapters": adapters, "weight": weight, "styles": styles}
        if both := [name for name, value in given.items() if value is not None]:
            raise UsageError("rows say everything themselves", key=both[0], hint='Act("name", weight=..., styles=...)')
        if isinstance(rows, str) or not len(rows):
            raise UsageError("rows is a list with one entry for every picture", key="rows", found=repr(rows))
        return StyleInjectRequest(pipeline, list(rows))
    if weight is not None and not isinstance(adapters, str):
        raise UsageError(
            "a weight belongs to one adapter's name", key="weight", hint='Of several: {"a": 0.5, "b": 1.0}'
        )
    if adapters is None:
        return StyleInjectRequest(pipeline, [CURRENT], styles)
    row: Ask = Act(adapters, weight) if isinstance(adapters, str) else adapters
    return StyleInjectRequest(pipeline, [row], styles)


#: The adapters that are active when a request begins, as they are.
CURRENT: Any = object()


def _read(ask: Ask, pipeline: Any, styles: Mapping[str, StyleWeight] | None) -> list[Act]:
    """One row as acts; ``styles`` go to those that have such branches.

    Raises:
        UsageError: something else than an `Ask`, or a style that none of them has.
    """
    if ask is CURRENT:
        acts = [*map(_as_it_is, registry.active_names(pipeline))]
    elif ask is None:
        acts = []
    elif isinstance(ask, str | Act):
        acts = [_as_act(ask)]
    elif isinstance(ask, Mapping):
        acts = [Act(name, given) for name, given in ask.items()]
    elif isinstance(ask, Sequence):
        acts = [_as_act(one) for one in ask]
    else:
        raise UsageError("asks for no adapter", expected="a name, an Act, a table or a list of these", found=repr(ask))
    if styles is None:
        return acts
    known = style_names(pipeline, [act.adapter for act in acts])
    _check_styles(styles, known)
    own = {name: {style: w for style, w in styles.items() if style in branches} for name, branches in known.items()}
    return [replace(act, styles=own.get(act.adapter) or act.styles) for act in acts]


def _names(ask: Ask) -> list[str]:
    """The adapters that a row names, as far as it is an `Ask`; `_read` refuses what is none."""
    if isinstance(ask, str | Act):
        return [ask if isinstance(ask, str) else ask.adapter]
    if isinstance(ask, Mapping):
        return [name for name in ask if isinstance(name, str)]
    return (
        [name for one in ask if isinstance(one, str | Act) for name in _names(one)] if isinstance(ask, Sequence) else []
    )


def _as_it_is(name: str) -> Act:
    return Act(name, CURRENT)


def _as_act(one: object) -> Act:
    if isinstance(one, str):
        return Act(one)
    if not isinstance(one, Act):
        raise UsageError("is neither an adapter's name nor an Act", found=repr(one))
    return one


def plan_rows(pipeline: Any, models: Mapping[str, nn.Module], rows: Sequence[Sequence[Act]]) -> dict[str, RowPlan]:
    """For every model, what the rows ask of it; acts that say the same become the same part.

    Raises:
        UsageError: see `StyleInjectRequest.__enter__`.
    """
    owners = registry.by_name(pipeline)
    known: list[tuple[Act, dict[str, Role]]] = []

    def parts_of(act: Act) -> dict[str, Role]:
        for other, parts in known:
            if _says_the_same(act, other):
                return parts
        known.append((act, _parts(act, pipeline, models, owners)))
        return known[-1][1]

    resolved = [[parts_of(act) for act in row] for row in rows]
    for row in rows:
        names = [act.adapter for act in row]
        whole = {act.adapter for act in row if act.mask is None}
        if double := [name for name in names if names.count(name) > 1 and name in whole]:
            raise UsageError("an adapter is named twice in one row", key=double[0], hint="Each may have a mask")
    return {
        component: RowPlan(
            [tuple(parts[component] for parts in row if component in parts) for row in resolved], Clock(pipeline)
        )
        for component in models
    }


def _says_the_same(left: Act, right: Act) -> bool:
    return left is right or (left == right and left.mask is right.mask)


def _parts(
    act: Act, pipeline: Any, models: Mapping[str, nn.Module], owners: Mapping[str, list[str]]
) -> dict[str, Role]:
    _check_styles(act.styles, style_names(pipeline, [act.adapter]))
    overall = None if act.weight is CURRENT else as_timed(act.weight)
    given: Any = None if act.weight is CURRENT or overall is not None else act.weight
    shared = share_out([act.adapter], given, owners, registry.models(pipeline))
    parts = {}
    for component, model in models.items():
        door = find_door(model)
        record = None if door is None else door.records.get(act.adapter)
        if door is None or record is None:
            continue
        if record.fused is not None:
            raise UsageError("the adapter is fused, so it acts in every request", key=act.adapter, hint=_UNFUSE)
        role = door.role(act.adapter)
        weight = shared[component].get(act.adapter)
        timed = as_timed(weight)
        if timed is not None and not is_timed(model):
            raise UsageError("is not run by steps, so its weight is one number", key=component)
        if act.weight is CURRENT:
            role = role if door.acts(act.adapter) else replace(role, weight=0.0)
        else:
            role = replace(role, weight=1.0 if timed is not None else _by_path(model, weight, component, role))
        timed = overall if is_timed(model) and timed is None else timed
        role = replace(role, timed=(*role.timed, timed)) if timed is not None else role
        role = role if act.styles is None else _with_styles(role, act.styles, record.branches, model)
        if act.mask is not None:
            mask, elsewhere = _check_mask(act.mask, act), _finite(act.elsewhere, act)
            role = replace(role, mask=mask, elsewhere=elsewhere) if is_timed(model) else _scaled(role, elsewhere)
        parts[component] = role
    return parts


def _scaled(role: Role, factor: float) -> Role:
    weight = role.weight
    if isinstance(weight, Mapping):
        return replace(role, weight={path: factor * one for path, one in weight.items()})
    return replace(role, weight=factor * weight)


def _check_mask(mask: object, act: Act) -> Tensor:
    if not isinstance(mask, Tensor) or mask.ndim != 2 or not mask.numel() or not bool(torch.isfinite(mask).all()):
        shape = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise UsageError(
            "a mask is a tensor of finite numbers, one for each place", key=act.adapter, expected="[H, W]", found=shape
        )
    return mask.to(torch.float32) if not mask.is_floating_point() else mask


def _finite(number: object, act: Act) -> float:
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise UsageError("elsewhere is a finite number", key=act.adapter, found=repr(number))
    return float(number)


def _by_path(model: nn.Module, weight: AdapterWeight, component: str, role: Role) -> PathWeight:
    number = per_module(model, weight, component)
    paths = role.weight if isinstance(role.weight, Mapping) else ()
    return {path: float(number(path)) for path in paths} if callable(number) else number


def _with_styles(role: Role, styles: Mapping[str, StyleWeight], branches: Sequence[str], model: nn.Module) -> Role:
    """The role with these styles; those by step are ones, timed."""
    timed = {name: given for name, weight in styles.items() if (given := as_timed(weight)) is not None}
    if timed and not is_timed(model):
        timed = {}
    numbers = tuple(1.0 if name in timed else _number(styles.get(name, 0.0)) for name in branches)
    known = role.branches_timed or ((),) * len(branches)
    by_branch = tuple((*own, *filter(None, [timed.get(name)])) for name, own in zip(branches, known, strict=True))
    return replace(role, styles=numbers, branches_timed=by_branch if any(by_branch) else ())


def _number(weight: StyleWeight) -> float:
    """A style's weight where nothing runs by steps: one for those that change."""
    return float(weight) if isinstance(weight, int | float) else 1.0


def _check_styles(styles: Mapping[str, StyleWeight] | None, known: Mapping[str, Collection[str]]) -> None:
    numbers: Any = None if styles is None else {name: 1.0 if as_timed(w) else w for name, w in styles.items()}
    check_styles(numbers, known)


_UNFUSE = "unfuse_styleinject() first: requests cannot share a base that one of them changes"


def _check_runnable(pipeline: Any, name: str) -> None:
    component = pipeline.components[name]
    if hasattr(component, "_orig_mod") or any(
        getattr(module, "_compiled_call_impl", None) is not None for module in component.modules()
    ):
        raise UsageError(
            "a compiled model cannot tell requests apart", key=name,
            hint="Set adapters and styles for the whole pipeline, or leave the model uncompiled",
        )  # fmt: skip


def count_pictures(pipeline: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int | None:
    """How many pictures a call of the pipeline is for, None where its arguments do not tell."""
    try:
        given = inspect.signature(pipeline.__call__).bind_partial(*args, **kwargs).arguments
    except TypeError:
        return None  # the call itself says what is wrong
    prompt, embeds = given.get("prompt"), given.get("prompt_embeds")
    if isinstance(prompt, str):
        prompts = 1
    elif isinstance(prompt, list | tuple):
        prompts = len(prompt)
    elif isinstance(embeds, Tensor | list):
        prompts = len(embeds)
    else:
        return None
    each = given.get("num_images_per_prompt", given.get("num_videos_per_prompt"))
    return prompts * (1 if each is None else int(each))
