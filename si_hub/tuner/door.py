"""The one object of a model that PEFT and diffusers take for a tuner layer.

They steer adapters by visiting every ``BaseTunerLayer``: set_adapter, set_scale, scale_layer, merge ... Our layers are
not of that class, so those visits pass them by; this door, last child of the model, takes them and translates what is
meant for us. Adapters loaded by our pipelines are *managed*: nothing but the call-time scale reaches them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from si_hub.tuner.fusion import fuse_into_base, unfuse_from_base
from si_hub.tuner.kinds import working_device, working_dtype
from si_hub.tuner.layer import CHILD, LayerAdapter, all_modules, put_child, take_child
from si_hub.tuner.ledger import Ledger
from si_hub.tuner.requests import Watch

#: Name of the door under the model.
DOOR = "styleinject_door"
#: The name by which diffusers undoes a call-time scale of zero: it then sets the scale of every active adapter to one.
_UNDO = "styleinject call"


class Door(nn.Module, BaseTunerLayer, Ledger):
    """The ledger of one model's adapters as PEFT and diffusers see it; see the module's text."""

    def __init__(self) -> None:
        super().__init__()
        Ledger.__init__(self)

    def forward(self, x: Any) -> Any:
        """The identity: a model that is an nn.Sequential calls every child."""
        return x

    # What PEFT and diffusers call or read.

    @property
    def r(self) -> dict[str, int]:
        """Empty: diffusers numbers its automatic names by its length."""
        return {}

    @property
    def base_layer(self) -> Door:
        """Itself, so that replacing every tuner layer by its base layer leaves the door where it is."""
        return self

    def get_base_layer(self) -> Door:
        return self

    @property
    def weight(self) -> Tensor:
        raise AttributeError("the door has no weight")

    @property
    def bias(self) -> Tensor:
        raise AttributeError("the door has no bias")

    #: Where PEFT's status reads gradients and devices.
    adapter_layer_names = ("adapters_by_name",)

    @property
    def adapters_by_name(self) -> nn.ModuleDict:
        """What PEFT knows of, every adapter's parts in all layers."""
        return _AdaptersByName(self)

    @property
    def merged_adapters(self) -> list[str]:
        return [name for name in self.peft_names() if self.records[name].fused is not None]

    @property
    def active_adapter(self) -> list[str]:
        active = [name for name in self.peft_names() if self.records[name].active]
        return [*active, _UNDO] if 0.0 in self.control.scales else active

    @property
    def disable_adapters(self) -> bool:
        return not self.known_enabled

    @property
    def cast_input_dtype_enabled(self) -> bool:
        """What ``peft.helpers.disable_input_dtype_casting`` switches, for leaves whose weights are cast by hooks."""
        return all(adapter.casts_inputs for adapter in self._module_adapters())

    @cast_input_dtype_enabled.setter
    def cast_input_dtype_enabled(self, enabled: bool) -> None:
        for adapter in self._module_adapters():
            adapter.casts_inputs = enabled

    def _module_adapters(self) -> list[LayerAdapter]:
        adapters = (adapter for _, layer in self.layers() for adapter in layer.values())
        return [adapter for adapter in adapters if isinstance(adapter, LayerAdapter)]

    def _get_available_adapters(self) -> set[str]:
        return set(self.peft_names())

    def _all_available_adapter_names(self) -> list[str]:
        return sorted(self.peft_names())

    def enable_adapters(self, enabled: bool) -> None:
        if not enabled:
            # As a merged LoRA: what is switched off does not act through the base weights either.
            self.unmerge()
        self.known_enabled = enabled
        for name in self.peft_names():
            self.set_requires_grad(name, enabled and self.records[name].active)
        self.refresh()

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        for name in self.peft_names():
            self.records[name].active = name in names
            self.set_requires_grad(name, name in names and not inference_mode)
        self.refresh()

    def set_requires_grad(self, adapter_names: str | Sequence[str], requires_grad: bool = True) -> None:
        names = {adapter_names} if isinstance(adapter_names, str) else set(adapter_names)
        for name in names.intersection(self.peft_names()):
            for _, layer in self.layers():
                if name in layer.adapters:
                    layer[name].requires_grad_(requires_grad and self.records[name].trainable)

    def set_scale(self, adapter: str, scale: float) -> None:
        if adapter == _UNDO:
            self.control.pop(0.0)
        elif adapter in self.peft_names() and 0.0 not in self.control.scales:
            self.set_weight(adapter, scale)

    def scale_layer(self, scale: float) -> None:
        self.control.push(float(scale))

    def unscale_layer(self, scale: float | None = None) -> None:
        if scale is None:
            self.control.clear()
        else:
            self.control.pop(scale)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Door:
        # Having loaded a LoRA, diffusers scales every layer of a text encoder by the scale of the last call, casts the
        # model, and never unscales. No call casts a model while it runs, so a scale that is there now is a leftover.
        if _casts(fn):
            self.control.by_thread.clear()
            self.control.compiled.clear()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def delete_adapter(self, adapter_name: str) -> None:
        if adapter_name not in self.peft_names():
            return
        if adapter_name in self.merged_adapters:
            unfuse_from_base(self, [adapter_name])
        was_active = self.records[adapter_name].active
        self.drop(adapter_name)
        left = sorted(self.peft_names())
        if was_active and left and not any(self.records[name].active for name in left):
            warnings.warn(
                f"Adapter {adapter_name} was active which is now deleted. Setting active adapter to {left[0]}.",
                stacklevel=2,
            )
            self.set_adapter(left[0])

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Fuse ours where they are named; without names this is somebody else's fuse_lora, and ours stay as they are.

        diffusers announces ``lora_scale`` by `scale_layer` and never takes it back, so it ends here.
        """
        scale = self.control.scale
        self.control.clear()
        names = [name for name in adapter_names or () if name in self.peft_names()]
        if names:
            fuse_into_base(self, names, scale, safe=safe_merge)

    def unmerge(self) -> None:
        if self.merged_adapters:
            unfuse_from_base(self, self.merged_adapters)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: Any = None) -> None:
        for base, layer in self.layers():
            if adapter_name in layer.adapters and not _is_empty(layer[adapter_name]):
                layer[adapter_name].to(device or working_device(base), working_dtype(base, base))


class _AdaptersByName(nn.ModuleDict):
    """The adapters that PEFT knows of, as they are whenever they are looked at: PEFT keeps what it was given."""

    def __init__(self, ledger: Ledger) -> None:
        object.__setattr__(self, "_ledger", ledger)  # no child of this one
        super().__init__()

    @property  # type: ignore[override]
    def _modules(self) -> dict[str, nn.Module]:
        ledger: Ledger = self.__dict__["_ledger"]
        return {
            name: nn.ModuleList(layer[name] for _, layer in ledger.layers() if name in layer.adapters)
            for name in ledger.peft_names()
        }

    @_modules.setter
    def _modules(self, modules: dict[str, nn.Module]) -> None:
        """Nothing: torch begins a module with none."""


def _is_empty(adapter: nn.Module) -> bool:
    return any(value.device.type == "meta" for value in adapter.parameters())


def _casts(fn: Callable[[Tensor], Tensor]) -> bool:
    """Whether what ``nn.Module._apply`` maps over tensors makes one dtype of two."""
    half, brain = (fn(torch.empty(0, dtype=dtype)) for dtype in (torch.float16, torch.bfloat16))
    return half.dtype == brain.dtype


def _nest(door: Door) -> nn.Module:
    # diffusers splits the module names of tuner layers at dots and takes the fourth part without looking.
    inner: nn.Module = door
    for step in ("calls", "layer", "peft"):
        outer = _Step()
        outer.add_module(step, inner)
        inner = outer
    return inner


class _Step(nn.Module):
    """A level of nesting, the identity when called."""

    def forward(self, x: Any) -> Any:
        return x


def root_of(model: nn.Module) -> nn.Module:
    """The component itself behind torch.compile and PEFT's wrappers."""
    while True:
        if "_orig_mod" in model._modules:
            inner = model._modules["_orig_mod"]
        elif callable(get := getattr(type(model), "get_base_model", None)):
            inner = get(model)
        elif hasattr(type(model), "tuner_layer_cls"):
            inner = model._modules["model"]
        else:
            return model
        assert inner is not None
        model = inner


def find_door(model: nn.Module) -> Door | None:
    """The model's door, None where nothing was ever injected."""
    step = root_of(model)._modules.get(DOOR)
    for name in ("peft", "layer", "calls"):
        step = None if step is None else step._modules.get(name)
    return step if isinstance(step, Door) else None


def open_door(model: nn.Module, *, freeze: bool = False) -> Door:
    """The model's door, made now where there is none.

    Args:
        freeze: as the first adapter of PEFT does: the base's parameters stop being trainable until the door closes.
            PEFT takes the door for an adapter, so one that it adds later would leave them as they are.
    """
    door = find_door(model)
    if door is None:
        door = Door()
        root = root_of(model)
        if freeze and not _has_foreign(root):
            trainable = {name: value for name, value in _named_parameters(root) if value.requires_grad}
            door.frozen = set(trainable)
            for value in trainable.values():
                value.requires_grad_(False)
        put_child(root, DOOR, _nest(door).train(root.training))
    return door


def _has_foreign(root: nn.Module) -> bool:
    return any(isinstance(module, BaseTunerLayer) and not isinstance(module, Door) for module in all_modules(root))


def _named_parameters(root: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The base's parameters by logical name, one that is shared by each of its names."""
    for path, module in modules_by_path(root).items():
        for name, value in module._parameters.items():
            if value is not None:
                yield f"{path}.{name}" if path else name, value


def watch_runs(model: nn.Module) -> None:
    """From now on, until the door closes, the model's layers know which run of the whole model they are in."""
    door = find_door(model)
    if door is not None:
        Watch(door.control).attach(root_of(model))


def close_door(model: nn.Module) -> None:
    """Remove the door where no adapter is left."""
    door = find_door(model)
    if door is not None and not door.records:
        root = root_of(model)
        Watch.detach(root)
        take_child(root, DOOR)
        if door.frozen and not _has_foreign(root):
            for name, value in _named_parameters(root):
                if name in door.frozen:
                    value.requires_grad_(True)


def logical(path: str) -> str:
    """A module path without the levels that foreign adapters put in."""
    return ".".join(part for part in path.split(".") if part != "base_layer")


def modules_by_path(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by every logical path it has; where foreign adapters wrap one, the innermost base module."""
    found: dict[str, nn.Module] = {}

    def visit(module: nn.Module, path: str) -> None:
        if not isinstance(module, BaseTunerLayer):
            found[path] = module
        for name, child in module._modules.items():
            if child is not None and not name.startswith((CHILD, DOOR)):
                visit(child, path if name == "base_layer" else f"{path}.{name}" if path else name)

    visit(root_of(model), "")
    return found
