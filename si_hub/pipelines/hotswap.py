"""Replacing an adapter's numbers in place: the modules and their memory stay, so a compiled model stays compiled."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from si_hub import tuner
from si_hub.adapter import Adapter, Component
from si_hub.errors import UsageError
from si_hub.pipelines import loading, registry
from si_hub.pipelines.padding import pad
from si_hub.pipelines.report import ComponentReport, LoadReport
from si_hub.tuner.door import find_door
from si_hub.tuner.layer import LayerAdapter
from si_hub.tuner.parameters import ParameterAdapter

Live = LayerAdapter | ParameterAdapter

_INCOMING = "styleinject_incoming"
#: What two layers must share so that one can take the other's numbers.
_FIXED = ("branches", "rank", "transform", "pool", "groups")


def swap(
    pipeline: Any,
    adapter: Adapter,
    name: str | None,
    *,
    source: str,
    low_cpu_mem_usage: bool,
    strict: bool,
    allowed: Collection[str] = (),
) -> LoadReport:
    """Give the loaded adapter ``name`` the numbers of another one; weights and activity stay as they are.

    Styles stay where the branches have the same names, else the router chooses again. Layers that only the old
    adapter has are set to zero.

    Raises:
        UsageError: no adapter of that name, a fused one, or layers that differ in more than their numbers.
        NotFinite, BaseMismatch: see `si_hub.pipelines.loading.load_adapter`.
    """
    if name is None or name not in registry.by_name(pipeline):
        known = ", ".join(registry.by_name(pipeline)) or "none is loaded"
        raise UsageError("hotswap replaces a loaded adapter", key="adapter_name", expected=known, found=name)
    loading.check_reach(adapter, source, allowed)
    loading.read_finite(adapter, source)
    models = registry.models(pipeline)
    owners = registry.by_name(pipeline)[name]
    parts, plans = {}, []
    for component, content in adapter.components.items():
        if component not in models:
            parts[component] = ComponentReport(missing=tuple(content.layers))
            continue
        parts[component], plan = _plan(models[component], component, content, adapter, name, low_cpu_mem_usage)
        plans += plan
    for component in owners:
        if component not in adapter.components:
            plans += [(layer, None) for layer in _layers(models[component], name).values()]
    base = loading.base_text(adapter)
    report = LoadReport(name, source, base, parts)
    loading.check_complete(report, pipeline, strict)
    _overwrite_all(plans)
    for component in owners:
        _rename_branches(models[component], name, adapter.branches)
        registry.remember(models[component], name, adapter)
    loading.follow_schedule(pipeline, [models[component] for component in owners], name, adapter)
    return report


def _plan(
    model: nn.Module, component: str, content: Component, adapter: Adapter, name: str, low_cpu_mem_usage: bool
) -> tuple[ComponentReport, list[tuple[Live, Live | None]]]:
    before = registry.sources(model).get(name)
    if content.embeddings or (before and component in before.components and before.components[component].embeddings):
        raise UsageError("hotswap cannot change textual inversions", key=component, hint="Unload, then load")
    states = tuner.adapters(model)
    if name in states and states[name].fused is not None:
        raise UsageError("the adapter is fused", key=name, hint="unfuse_styleinject() first")
    found = tuner.inject(
        model,
        pad(model, content, component),
        name=_INCOMING,
        branches=adapter.branches,
        low_cpu_mem_usage=low_cpu_mem_usage,
    )
    try:
        old, new = _layers(model, name), _layers(model, _INCOMING)
        _check_same_structure(component, old, new)
        plan = [(old[path], new.get(path)) for path in old]
    finally:
        tuner.remove(model, [_INCOMING])
    matched = tuple(path for path in found.matched if path in content.layers)
    return ComponentReport(matched, tuple(found.missing), tuple(loading.misfits(found))), plan


def _layers(model: nn.Module, name: str) -> dict[str, Live]:
    door = find_door(model)
    pairs = door.layers() if door else ()
    return {layer[name].path: layer[name] for _, layer in pairs if name in layer.adapters}


def _check_same_structure(component: str, old: dict[str, Live], new: dict[str, Live]) -> None:
    for path, layer in new.items():
        if path not in old:
            raise UsageError(
                "the loaded adapter has no such layer, hotswap adds none", key=f"{component}.{path}", hint=_WAY_OUT
            )
        have, want = _structure(old[path]), _structure(layer)
        if have != want:
            differing = [key for key in {**have, **want} if have.get(key) != want.get(key)]
            raise UsageError(
                "the layers differ in shape",
                key=f"{component}.{path}",
                expected=", ".join(f"{key} {have.get(key)}" for key in differing),
                found=", ".join(f"{key} {want.get(key)}" for key in differing),
                hint=_WAY_OUT,
            )


_WAY_OUT = (
    "enable_styleinject_hotswap(target_rank=…, targets=[…]) before the first load levels ranks and targets; "
    "else delete and load"
)


def _structure(layer: Live) -> dict[str, object]:
    shapes: dict[str, object] = {key: list(value.shape) for key, value in layer.named_parameters()}
    return {**shapes, **{key: getattr(layer, key) for key in _FIXED}}


def _rename_branches(model: nn.Module, name: str, branches: tuple[str, ...]) -> None:
    door = find_door(model)
    if door is not None and name in door.records and door.records[name].branches != branches:
        tuner.set_styles(model, None, [name])
        door.records[name].branches = branches


def _overwrite_all(plans: list[tuple[Live, Live | None]]) -> None:
    """Every layer gets its new numbers or, where one cannot be written, none does."""
    with ExitStack() as undo:
        for old, new in plans:
            undo.callback(
                _put_back, old, {key: value.detach().clone() for key, value in old.named_parameters()}, old.alpha
            )
            _overwrite(old, new)
        undo.pop_all()


@torch.no_grad()
def _put_back(layer: Live, values: dict[str, torch.Tensor], alpha: float | None) -> None:
    for key, parameter in layer.named_parameters():
        if not torch.equal(parameter, values[key]):
            parameter.copy_(values[key])
    layer.alpha = alpha


@torch.no_grad()
def _overwrite(old: Live, new: Live | None) -> None:
    values = {} if new is None else dict(new.named_parameters())
    for key, parameter in old.named_parameters():
        if new is not None:
            parameter.copy_(values[key])
        else:
            parameter.fill_(1.0 if key.startswith("gain") else 0.0)
    if new is not None and old.alpha != new.alpha:
        old.alpha = new.alpha
