"""Deltas of bare parameters: what a DiT block reads as ``self.scale_shift_table``.

No module is called there, so nothing can be added to an output. While the parent's forward runs, and only then, the
name is shadowed in the parent's ``__dict__`` by parameter + Σ_a w_a · delta_a; the parameter itself is never touched.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn

from si_hub.adapter import Pool, Transform
from si_hub.errors import BaseMismatch
from si_hub.tuner.layer import (
    CHILD,
    Control,
    GuestLayer,
    Value,
    Weighed,
    acting_weight,
    put_child,
    take_child,
)
from si_hub.tuner.offloaded import find_parameter, find_stored
from si_hub.tuner.requests import current_call


class ParameterAdapter(Weighed):
    """One adapter's delta of one bare parameter."""

    branches = 0
    rank = 0
    alpha = None
    transform: Transform = "add"
    pool: Pool = "mean"
    groups = 1

    def __init__(self, path: str, delta: Tensor) -> None:
        super().__init__(path)
        self.param_delta = Value(delta)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ParameterAdapter:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._follow()
        return self

    def forward(self, parent: nn.Module, parameter: Tensor, weight: float | Tensor) -> Tensor:
        """weight · delta, in the parameter's dtype and on its device."""
        stored = find_stored(parent, self.param_delta.weight)
        delta: Tensor = self.param_delta() if stored is None else stored
        return weight * delta.to(parameter.device, parameter.dtype)


class _Turn:
    """A lock that a copy of the model does not share."""

    def __init__(self) -> None:
        self.lock = RLock()

    def __reduce__(self) -> tuple[type[_Turn], tuple[()]]:
        return _Turn, ()


class ParameterLayer(GuestLayer):
    """All adapters of one bare parameter; its interface is that of `si_hub.tuner.layer.StyleInjectLayer`."""

    def __init__(self, control: Control, name: str) -> None:
        super().__init__()
        self.control = control
        self.name = name
        self.active: tuple[str, ...] = ()
        self.turn = _Turn()

    @classmethod
    def of(cls, name: str) -> Callable[[Control], ParameterLayer]:
        return lambda control: cls(control, name)

    def __getitem__(self, name: str) -> ParameterAdapter:
        adapter = self._modules[name]
        assert isinstance(adapter, ParameterAdapter)
        return adapter

    def before(self, parent: nn.Module, _: Any) -> None:
        """Forward pre-hook of the parent: shadow the parameter; threads with other scales wait for their turn."""
        compiling = torch.compiler.is_compiling()
        if not compiling:
            self.turn.lock.acquire()
        scale = self.control.scale
        call = None if compiling else current_call(self.control)
        names = self.active if call is None else sorted(call.plan.names & self._modules.keys())
        found = [(name, one) for name in names if isinstance(one := self._modules.get(name), ParameterAdapter)]
        weights = [acting_weight(one) if call is None else call.one_weight(name, one.path) for name, one in found]
        acting = [
            (one, w * scale) for (_, one), w in zip(found, weights, strict=True) if scale and (compiling or w != 0)
        ]
        parameter = find_parameter(parent, self.name) if acting else None
        if parameter is None:
            return
        if parameter.device.type == "meta":
            raise BaseMismatch(
                "the parameter is offloaded when its delta is needed",
                key=acting[0][0].path,
                hint="Use model offloading (enable_model_cpu_offload), not sequential offloading, with this adapter",
            )
        effective = parameter
        for adapter, weight in acting:
            effective = effective + adapter(parent, parameter, weight)
        parent.__dict__[self.name] = effective

    def after(self, parent: nn.Module, _args: Any, _output: Any) -> None:
        """Forward hook of the parent, called after an exception too: show the parameter again."""
        parent.__dict__.pop(self.name, None)
        if not torch.compiler.is_compiling():
            self.turn.lock.release()

    def attach(self, parent: nn.Module) -> None:
        put_child(parent, f"{CHILD}_{self.name}", self)
        parent.register_forward_pre_hook(self.before)
        parent.register_forward_hook(self.after, always_call=True)

    def detach(self, parent: nn.Module) -> None:
        """Undo `attach`."""
        for hooks in (parent._forward_pre_hooks, parent._forward_hooks):
            for key, hook in list(hooks.items()):
                if getattr(hook, "__self__", None) is self:
                    del hooks[key]
                    parent._forward_hooks_always_called.pop(key, None)
        take_child(parent, f"{CHILD}_{self.name}")
