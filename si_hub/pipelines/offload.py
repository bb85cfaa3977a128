"""Who changes adapters is alone, and without offload hooks: those hold tables of a model's tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from threading import RLock
from typing import Any, ParamSpec, TypeVar

from torch import nn

from si_hub.pipelines.groups import Groups, is_grouped
from si_hub.pipelines.registry import models
from si_hub.storage.access import tell_access_errors
from si_hub.tuner.layer import all_modules

_P = ParamSpec("_P")
_R = TypeVar("_R")
#: Held by whoever changes or lists the adapters of any pipeline: pipelines share models.
TURN = RLock()


def in_turn(change: Callable[_P, _R]) -> Callable[_P, _R]:
    """A method that waits until nobody else changes adapters."""

    @wraps(change)
    def wait_and_change(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with TURN:
            return change(*args, **kwargs)

    return wait_and_change


@contextmanager
def pause(pipeline: Any) -> Iterator[None]:
    """Run the body without offload hooks, one thread at a time; on the way out they are as they were, come what may.

    Model and sequential CPU offload go back to the device they were enabled for, group offload to its settings. Hooks
    that the pipeline did not put there itself, and those of a device map, stay where they are: the adapter's tensors
    follow the inputs.

    Raises:
        MissingFile, FileAccessError: what group offload stored on a disk is gone.
    """
    with TURN, ExitStack() as undo:
        enable = None if getattr(pipeline, "hf_device_map", None) is not None else _enabler(pipeline)
        with tell_access_errors():
            for model in models(pipeline).values():
                undo.callback(Groups(model).put_back)
        if enable is not None:
            pipeline.remove_all_hooks()
            undo.callback(lambda: enable(device=pipeline._offload_device))
        for model in models(pipeline).values():
            _clear_leftovers(model)
        yield


def is_offloaded(pipeline: Any) -> bool:
    """Whether `pause` would take hooks off, which calls that run meanwhile would miss."""
    mapped = getattr(pipeline, "hf_device_map", None) is not None
    return (not mapped and _enabler(pipeline) is not None) or any(map(is_grouped, models(pipeline).values()))


def _clear_leftovers(model: nn.Module) -> None:
    # accelerate and diffusers leave every module's own forward behind in its __dict__, which looks like a hook to
    # everyone else.
    for module in all_modules(model):
        if getattr(module.__dict__.get("forward"), "__func__", None) is type(module).forward:
            del module.__dict__["forward"]


def _enabler(pipeline: Any) -> Any:
    """The pipeline's method that puts its accelerate hooks back, None where it has put none there."""
    from accelerate.hooks import AlignDevicesHook, CpuOffload

    if not hasattr(pipeline, "_offload_device"):
        return None
    kinds: set[type] = set()
    for model in pipeline.components.values():
        hook = getattr(model, "_hf_hook", None) if isinstance(model, nn.Module) else None
        for single in getattr(hook, "hooks", [hook]):
            kinds.update(kind for kind in (AlignDevicesHook, CpuOffload) if isinstance(single, kind))
    if AlignDevicesHook in kinds:
        return pipeline.enable_sequential_cpu_offload
    return pipeline.enable_model_cpu_offload if CpuOffload in kinds else None
