"""Offload hooks hold tables of a model's tensors: taken off while adapters come and go, put back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def pause(pipeline: Any) -> Iterator[None]:
    """Run the body without offload hooks; on the way out, also of an exception, they are as they were.

    Model and sequential CPU offload go back to the device they were enabled for. Group offload indexes the new
    tensors. Hooks that the pipeline did not put there itself, and those of a device map, stay where they are: the
    adapter's tensors follow the inputs.
    """
    from diffusers.hooks.group_offloading import _maybe_remove_and_reapply_group_offloading as reapply

    enable = None if getattr(pipeline, "hf_device_map", None) is not None else _enabler(pipeline)
    if enable is not None:
        pipeline.remove_all_hooks()
        _clear_leftovers(pipeline)
    try:
        yield
    finally:
        if enable is not None:
            enable(device=pipeline._offload_device)
        for model in pipeline.components.values():
            if isinstance(model, nn.Module):
                reapply(model)


def _clear_leftovers(pipeline: Any) -> None:
    # accelerate leaves every module's own forward behind in its __dict__, which looks like a hook to everyone else.
    for model in pipeline.components.values():
        for module in model.modules() if isinstance(model, nn.Module) else ():
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
