"""Adapters of projections that diffusers' ``fuse_qkv_projections`` puts into one layer while they are loaded.

The fused layer is called instead of those that carry the adapters. Its output is theirs, joined; so each adapter acts
on its own part of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from si_hub.tuner.kinds import CALLED_INSTEAD
from si_hub.tuner.layer import CHILD


def watch(attention: nn.Module) -> None:
    """From now on, adapters of this attention's projections act in its fused ones too."""
    if _follow not in attention._forward_pre_hooks.values():
        attention.register_forward_pre_hook(_follow)


def unwatch(attention: nn.Module) -> None:
    """Undo `watch` once none of the projections carries an adapter."""
    if any(CHILD in _base_of(attention, name)._modules for names in CALLED_INSTEAD.values() for name in names):
        return
    _take_off(attention._forward_pre_hooks, lambda hook: hook is _follow)
    for fused, _ in _fused_layers(attention):
        _take_off(fused._forward_hooks, lambda hook: isinstance(hook, _Relay))


@torch.no_grad()
def renew(attention: nn.Module) -> None:
    """Give the fused layers the weights that their projections have now."""
    for fused, names in _fused_layers(attention):
        bases = [_base_of(attention, name) for name in names]
        for parameter in ("weight", "bias"):
            target = fused._parameters.get(parameter)
            parts = [base._parameters.get(parameter) for base in bases]
            if target is not None and all(part is not None for part in parts):
                target.data = torch.cat([part.data for part in parts if part is not None])


def _follow(attention: nn.Module, _: Any) -> None:
    """Forward pre-hook of an attention: a fused layer that came since is followed."""
    for fused, names in _fused_layers(attention):
        if not any(isinstance(hook, _Relay) for hook in fused._forward_hooks.values()):
            fused.register_forward_hook(_Relay(attention, names))


class _Relay:
    """Forward hook of a fused layer."""

    def __init__(self, attention: nn.Module, names: tuple[str, ...]) -> None:
        self.attention = attention
        self.names = names

    def __call__(self, fused: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """The output with each projection's adapters in its part of it, None where nothing acts."""
        bases: list[Any] = [_base_of(self.attention, name) for name in self.names]
        parts = list(torch.split(output, [base.out_features for base in bases], dim=-1))
        changed = False
        for number, base in enumerate(bases):
            layer: Any = base._modules.get(CHILD)
            part = None if layer is None else layer.hook(base, args, {}, parts[number])
            if part is not None:
                parts[number], changed = part, True
        return torch.cat(parts, dim=-1) if changed else None


def _fused_layers(attention: nn.Module) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
    for fused, names in CALLED_INSTEAD.items():
        layer = attention._modules.get(fused)
        if layer is not None and all(attention._modules.get(name) is not None for name in names):
            yield layer, names


def _base_of(attention: nn.Module, name: str) -> nn.Module:
    """A projection's base module, behind the layers of foreign adapters; an empty one where there is none."""
    module: Any = attention._modules.get(name)
    while module is not None and "base_layer" in module._modules:
        module = module._modules["base_layer"]
    return nn.Module() if module is None else module


def _take_off(hooks: Any, chosen: Any) -> None:
    for key, hook in list(hooks.items()):
        if chosen(hook):
            del hooks[key]
