"""Which adapters a pipeline has. The models hold the truth, so pipelines that share models agree about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from torch import nn

from si_hub import tuner
from si_hub.adapter import Adapter
from si_hub.errors import UsageError

_SOURCES = "styleinject_sources"


def models(pipeline: Any) -> dict[str, nn.Module]:
    """The pipeline's components that are models, a compiled one as the module it was compiled from."""
    return {
        name: getattr(part, "_orig_mod", part)
        for name, part in pipeline.components.items()
        if isinstance(part, nn.Module)
    }


def sources(model: nn.Module) -> dict[str, Adapter]:
    """What was loaded into this model, by adapter name, as it was read: nothing in it changes afterwards."""
    held = model.__dict__.get(_SOURCES)
    return {} if held is None else dict(held)


def remember(model: nn.Module, name: str, adapter: Adapter) -> None:
    model.__dict__.setdefault(_SOURCES, {})[name] = adapter


def forget(model: nn.Module, name: str) -> None:
    held = model.__dict__.get(_SOURCES, {})
    held.pop(name, None)
    if not held:
        model.__dict__.pop(_SOURCES, None)


def by_component(pipeline: Any) -> dict[str, list[str]]:
    """For every component that has any, the names of its adapters in the order they came."""
    return _named(models(pipeline))


def by_name(pipeline: Any) -> dict[str, list[str]]:
    """For every adapter, the components it adapts."""
    return owners_in(models(pipeline))


def owners_in(found: Mapping[str, nn.Module]) -> dict[str, list[str]]:
    """As `by_name`, of a pipeline whose `models` are known: asking it for them takes longer than all else here."""
    owners: dict[str, list[str]] = {}
    for component, names in _named(found).items():
        for name in names:
            owners.setdefault(name, []).append(component)
    return owners


def _named(found: Mapping[str, nn.Module]) -> dict[str, list[str]]:
    named = {part: list(dict.fromkeys([*tuner.adapter_names(model), *sources(model)])) for part, model in found.items()}
    return {component: names for component, names in named.items() if names}


def free_name(pipeline: Any) -> str:
    """``default_0``, ``default_1`` ...: never one that is in use, whatever has been deleted in between."""
    taken = by_name(pipeline)
    return next(name for i in count(len(taken)) if (name := f"default_{i}") not in taken)


def check_names(pipeline: Any, names: list[str]) -> None:
    """Raises UsageError for the first name that no component has."""
    known = by_name(pipeline)
    for name in names:
        if name not in known:
            raise UsageError(
                "no such StyleInject adapter is loaded",
                key=name,
                expected="one of " + ", ".join(known) if known else "none is loaded",
                hint="LoRAs have their own functions (set_adapters, delete_adapters ...)",
            )


def list_names(names: str | Sequence[str] | None, pipeline: Any) -> list[str]:
    """Adapter names as a checked list; ``None`` is all of them."""
    if names is None:
        return list(by_name(pipeline))
    names = [names] if isinstance(names, str) else list(names)
    check_names(pipeline, names)
    return names


def active_names(pipeline: Any) -> list[str]:
    """The adapters that are chosen to act somewhere; one of embeddings alone always is."""
    found: dict[str, None] = {}
    for model in models(pipeline).values():
        loaded = tuner.adapter_names(model)
        found |= dict.fromkeys(tuner.chosen_names(model))
        found |= dict.fromkeys(name for name in sources(model) if name not in loaded)
    return [name for name in by_name(pipeline) if name in found]


def switch_adapters(pipeline: Any, enabled: bool) -> None:
    for model in models(pipeline).values():
        tuner.set_enabled(model, enabled)


def move_adapters(pipeline: Any, names: list[str], device: Any) -> None:
    for model in models(pipeline).values():
        if here := [name for name in names if name in tuner.adapter_names(model)]:
            tuner.to_device(model, here, device)
