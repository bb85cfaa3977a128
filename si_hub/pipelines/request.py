"""Requests: which adapters act, how strongly and in which row, for the calls of one thread or task alone."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from torch import Tensor, nn

from si_hub import tuner
from si_hub.errors import UsageError
from si_hub.pipelines import registry
from si_hub.pipelines.offload import TURN
from si_hub.pipelines.running import Running, begin_use, end_use
from si_hub.pipelines.styles import check_styles, style_names
from si_hub.pipelines.weights import AdapterWeight, per_module, share_out
from si_hub.tuner.door import find_door, watch_runs
from si_hub.tuner.requests import Asked, PathWeight, Role, RowPlan, ask, asked_now, stop_asking


@dataclass(frozen=True, slots=True)
class Act:
    """One adapter in a request.

    Attributes:
        adapter: its name.
        weight: as in ``set_styleinject_adapters``: a number, or a table by component, block or module; None is 1.
        styles: weights of its branches, used as given; None is what ``set_styles`` chose, or the router.
    """

    adapter: str
    weight: AdapterWeight = None
    styles: Mapping[str, float] | None = None


#: What acts in a picture: nothing, an adapter by its name, one or several `Act`, or weights by adapter name.
Ask: TypeAlias = "str | Act | Mapping[str, AdapterWeight] | Sequence[str | Act] | None"


class StyleInjectRequest:
    """What ``pipe.styleinject(...)`` returns: a context for calls of the pipeline, or called itself in its place.

    It may be entered again, also by several threads at once.
    """

    def __init__(self, pipeline: Any, rows: Sequence[Ask], styles: Mapping[str, float] | None = None) -> None:
        self.pipeline = pipeline
        self._rows = rows
        self._styles = styles
        self._open: dict[Asked, Running] = {}

    def __enter__(self) -> StyleInjectRequest:
        """From here on, this thread or task draws with what the request names, and nothing else.

        Raises:
            UsageError: an adapter, style, component or block that is not there, a fused adapter, a compiled model.
        """
        with TURN:
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
    pipeline: Any, adapters: Ask, weight: AdapterWeight, styles: Mapping[str, float] | None, rows: Sequence[Ask] | None
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


def _read(ask: Ask, pipeline: Any, styles: Mapping[str, float] | None) -> list[Act]:
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
    check_styles(styles, known)
    own = {name: {style: w for style, w in styles.items() if style in branches} for name, branches in known.items()}
    return [replace(act, styles=own.get(act.adapter) or act.styles) for act in acts]


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
        if double := [name for name in names if names.count(name) > 1]:
            raise UsageError("an adapter is named twice in one row", key=double[0])
    return {
        component: RowPlan([tuple(parts[component] for parts in row if component in parts) for row in resolved])
        for component in models
    }


def _says_the_same(left: Act, right: Act) -> bool:
    return left is right or (left.adapter, left.weight, left.styles) == (right.adapter, right.weight, right.styles)


def _parts(
    act: Act, pipeline: Any, models: Mapping[str, nn.Module], owners: Mapping[str, list[str]]
) -> dict[str, Role]:
    given = None if act.weight is CURRENT else act.weight
    shared = share_out([act.adapter], given, owners, registry.models(pipeline))
    check_styles(act.styles, style_names(pipeline, [act.adapter]))
    parts = {}
    for component, model in models.items():
        state = tuner.adapters(model).get(act.adapter)
        if state is None:
            continue
        if state.fused is not None:
            raise UsageError("the adapter is fused, so it acts in every request", key=act.adapter, hint=_UNFUSE)
        if act.weight is CURRENT:
            weight: PathWeight = state.weights if state.active and state.enabled else 0.0
        else:
            number = per_module(model, shared[component].get(act.adapter), component)
            weight = {path: float(number(path)) for path in state.weights} if callable(number) else number
        styles = state.styles if act.styles is None else act.styles
        chosen = None if styles is None else tuple(float(styles.get(branch, 0.0)) for branch in state.branches)
        parts[component] = Role(act.adapter, weight, chosen)
    return parts


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
