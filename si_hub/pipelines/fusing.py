"""Fusing across the components of a pipeline: all of them or, where one refuses, none."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from torch import nn

from si_hub import tuner
from si_hub.errors import UsageError
from si_hub.pipelines import registry
from si_hub.tuner.door import find_door
from si_hub.tuner.fusion import check_bakeable


def fuse_adapters(
    pipeline: Any, components: Sequence[str] | None, scale: float, safe: bool, names: list[str] | None
) -> None:
    """Add adapters to the base weights, in every named component (default: all).

    Raises:
        UsageError: an unknown component or adapter name, or an adapter that is fused already.
        ConversionRefused: an adapter that is no change of weights: a T other than add, or a router at work.
    """
    if names is not None:
        registry.check_names(pipeline, names)
    with ExitStack() as undo:
        done: list[str] = []
        for model in pick_models(pipeline, components).values():
            here = [
                name
                for name, state in tuner.adapters(model).items()
                if state.fused is None and (state.active and state.enabled if names is None else name in names)
            ]
            if here:
                tuner.fuse_in_place(model, here, scale=scale, safe=safe)
                undo.callback(tuner.unfuse, model, here)
                done += here
        for name in names or ():
            if name not in done:
                raise UsageError("nothing of this adapter is left to fuse there", key=name, hint=_UNFUSE_HINT)
        undo.pop_all()


def pick_scale(scale: float, lora_scale: float | None) -> float:
    """The scale of a fusion, which may have been given under diffusers' name for it.

    Raises:
        UsageError: it was given under both.
    """
    if lora_scale is None:
        return scale
    if scale != 1.0:
        raise UsageError("is given as scale= too", key="lora_scale", found=lora_scale, hint="Give scale= alone")
    warnings.warn("lora_scale= is called scale= here", stacklevel=4)
    return lora_scale


def bake_adapters(
    pipeline: Any, components: Sequence[str] | None, scale: float, safe: bool, names: list[str] | None
) -> None:
    """Fuse adapters that are not fused yet, and let all of them go: the fused weights are the models' own.

    Args:
        names: by default the fused ones or, where none is, the active ones.

    Raises:
        UsageError, ConversionRefused, NotFinite: as `fuse_adapters`; or other adapters are fused into the same modules.
    """
    models = pick_models(pipeline, components)
    states = {component: tuner.adapters(model) for component, model in models.items()}
    if names is None:
        fused = [name for here in states.values() for name, state in here.items() if state.fused is not None]
        names = list(dict.fromkeys(fused)) or registry.active_names(pipeline)
    registry.check_names(pipeline, names)
    here = {component: [name for name in names if name in known] for component, known in states.items()}
    left = [name for name in names if any(name in known and known[name].fused is None for known in states.values())]
    with ExitStack() as undo:
        for name in left:
            fuse_adapters(pipeline, components, scale, safe, [name])
            for component, model in models.items():
                if name in states[component] and states[component][name].fused is None:
                    undo.callback(tuner.unfuse, model, [name])
        for component, model in models.items():
            if (door := find_door(model)) is not None:
                check_bakeable(door, here[component])
        undo.pop_all()
    for component, model in models.items():
        if here[component]:
            tuner.bake(model, here[component])
        # Tokens stay as the weights do.
        for name in names:
            registry.forget(model, name)


def warn_of_unfusing(pipeline: Any, names: Sequence[str]) -> None:
    """Warn that what was fused goes with its adapter, as LoRAs' does not."""
    if fused := [name for name in list_fused(pipeline) if name in names]:
        warnings.warn(
            f"{', '.join(fused)}: what was fused is taken out of the base again; bake_styleinject() keeps it instead",
            stacklevel=4,
        )


_UNFUSE_HINT = "To fuse it with another scale, unfuse_styleinject() first"


def unfuse_adapters(pipeline: Any, components: Sequence[str] | None) -> None:
    """Put the base weights back, bit for bit."""
    for model in pick_models(pipeline, components).values():
        tuner.unfuse(model)


def list_fused(pipeline: Any) -> list[str]:
    """Names of the adapters that are fused in some component."""
    states = (state for model in registry.models(pipeline).values() for state in tuner.adapters(model).items())
    return list(dict.fromkeys(name for name, state in states if state.fused is not None))


def pick_models(pipeline: Any, components: Sequence[str] | None) -> dict[str, nn.Module]:
    """The named models of a pipeline, all of them for ``None``."""
    models = registry.models(pipeline)
    for name in components or ():
        if name not in models:
            raise UsageError("the pipeline has no such component", key=name, expected="one of " + ", ".join(models))
    return models if components is None else {name: models[name] for name in components}
