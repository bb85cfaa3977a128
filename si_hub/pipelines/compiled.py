"""Compiled models do not see new hooks: torch.compile takes hooks for constants, without a guard on them."""

from __future__ import annotations

from typing import Any

from torch import nn


def refresh(pipeline: Any) -> None:
    """Drop compiled code where some model of the pipeline is compiled, so that its next call compiles it anew.

    To be called whenever adapters came or went. Seen are ``torch.compile(model)``, ``model.compile()``, its blocks'
    (``compile_repeated_blocks``), and ``model.forward = torch.compile(model.forward)``; not a compiled function of
    the user's own that calls a model.
    """
    if any(_is_compiled(model) for model in pipeline.components.values() if isinstance(model, nn.Module)):
        import torch.compiler

        torch.compiler.reset()


def _is_compiled(model: nn.Module) -> bool:
    return any(
        "_orig_mod" in module._modules
        or module.__dict__.get("_compiled_call_impl") is not None
        or hasattr(module.__dict__.get("forward"), "_torchdynamo_orig_callable")
        for module in model.modules()
    )
