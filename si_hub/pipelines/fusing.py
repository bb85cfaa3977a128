"""Fusing across the components of a pipeline: all of them or, where one refuses, none."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from torch import nn

from si_hub import tuner
from si_hub.errors import UsageError
from si_hub.pipelines import registry


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
                tuner.fuse(model, here, scale=scale, safe=safe)
                undo.callback(tuner.unfuse, model, here)
                done += here
        for name in names or ():
            if name not in done:
                raise UsageError("nothing of this adapter is left to fuse there", key=name, hint=_UNFUSE_HINT)
        undo.pop_all()


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
