"""The models of a pipeline as a base model: what modules they have, and their own weights, read when asked for.

Their own are those without adapters: what is fused by us is put aside, what others wrap is unwrapped, and neither's
parts count. A LoRA that diffusers or PEFT fused or merged counts as base, as it does wherever an adapter acts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from si_hub import tuner
from si_hub.architectures import Architecture, Model, Module, load
from si_hub.architectures.bases import BASES
from si_hub.architectures.folder import COMPONENT, frozen_path
from si_hub.architectures.model import modules_from_shapes
from si_hub.errors import ConversionRefused
from si_hub.pipelines import registry
from si_hub.tuner.door import DOOR, find_door
from si_hub.tuner.kinds import CALLED_INSTEAD
from si_hub.tuner.layer import CHILD

#: What a module was before ours was fused into it: (id of the module, parameter) → its tensor, None where it had none.
_Originals = dict[tuple[int, str], "torch.Tensor | None"]


@dataclass(frozen=True, slots=True)
class LiveParameter:
    """A parameter of a model that is in use.

    Attributes:
        name: component, module and parameter, for messages.
        shape: of the weight, also where it is packed by quantisation.
        owner: the module that has it.
        value: it; None where quantisation has put other tensors in its place.
        stores: offloaded tensors of the modules around it, and its name in each, innermost first.
        on_disk: diffusers' group offloading has put the numbers into a file: what is in memory is none.
    """

    name: str
    shape: tuple[int, ...]
    owner: nn.Module = field(repr=False)
    value: torch.Tensor | None = field(repr=False)
    stores: tuple[tuple[Mapping[str, torch.Tensor], str], ...] = field(default=(), repr=False)
    on_disk: bool = False

    def torch(self) -> torch.Tensor:
        """The values, on the CPU.

        Raises:
            ConversionRefused: they are quantised, or offloaded to where they cannot be read.
        """
        value = self.value
        if value is not None and value.device.type == "meta":
            value = next((store[name] for store, name in self.stores if name in store), None)
            if value is None:
                raise self._refusal("is offloaded to where it cannot be read", _WITHOUT_OFFLOAD)
        if self.on_disk:
            raise self._refusal("is offloaded to disk", _WITHOUT_OFFLOAD)
        if value is None or not _is_plain(self.owner, value):
            found = type(self.owner if value is None or type(value) in _PLAIN else value).__name__
            raise self._refusal(f"is quantised ({found})", _WITH_FOLDER)
        return value.detach().to("cpu")

    def _refusal(self, problem: str, hint: str) -> ConversionRefused:
        return ConversionRefused(
            f"the adapter is a function of the base model's weights, and this one {problem}", key=self.name, hint=hint
        )


_WITHOUT_OFFLOAD = "Load the adapter before offloading, or name a folder that has the weights: convert=FOLDER."
_WITH_FOLDER = "Name a folder that has the weights: convert=FOLDER."
_PLAIN = {nn.Parameter, torch.Tensor}


def _is_plain(owner: nn.Module, value: torch.Tensor) -> bool:
    """Whether the numbers of a tensor are the weight: float8 with scales beside it is none."""
    narrow = value.element_size() == 1 and not type(owner).__module__.startswith(("torch.nn.", "diffusers."))
    return type(value) in _PLAIN and value.dtype.is_floating_point and not narrow


@dataclass(slots=True)
class LiveWeights(Mapping[str, Mapping[str, LiveParameter]]):
    """A pipeline's denoisers and text encoders by component, their parameters by frozen name.

    Attributes:
        models: by component.
    """

    models: Mapping[str, nn.Module]
    _listed: dict[str, dict[str, LiveParameter]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, pipeline: Any) -> LiveWeights:
        """Those of a pipeline that adapters are for."""
        return cls({name: model for name, model in registry.models(pipeline).items() if COMPONENT.fullmatch(name)})

    def __getitem__(self, component: str) -> Mapping[str, LiveParameter]:
        if component not in self._listed:
            self._listed[component] = list_parameters(self.models[component], component)
        return self._listed[component]

    def __iter__(self) -> Iterator[str]:
        return iter(self.models)

    def __len__(self) -> int:
        return len(self.models)


def list_parameters(model: nn.Module, component: str) -> dict[str, LiveParameter]:
    """A model's own parameters, and buffers that it saves, by frozen name; values stay where they are."""
    root = tuner.root_of(model)
    class_name, before, on_disk = type(root).__name__, _originals(root), _find_on_disk(root)
    found: dict[str, LiveParameter] = {}
    for path, module, stores in _own_modules(root, "", ()):
        for leaf, value in _own_tensors(module, before).items():
            name = frozen_path(f"{path}.{leaf}" if path else leaf, class_name)
            shape = _linear_shape(module) if leaf == "weight" else ()
            shape = shape or tuple(value.shape)
            kept = tuple((store, f"{inner}{leaf}") for store, inner in stores)
            known = value if value is not _PACKED else None
            found[name] = LiveParameter(f"{component}.{name}", shape, module, known, kept, id(value) in on_disk)
    return found


#: Stands for the weight of a layer that has other tensors in its place.
_PACKED = torch.empty(0, device="meta")


def _originals(root: nn.Module) -> _Originals:
    if (door := find_door(root)) is None:
        return {}
    return {
        (id(door.sites[path].base), name): tensor
        for path, kept in door.originals.items()
        for name, tensor in kept.tensors.items()
    }


def _find_on_disk(root: nn.Module) -> set[int]:
    """Tensors whose numbers diffusers' group offloading keeps in files."""
    registries = (getattr(module, "_diffusers_hook", None) for module in root.modules())
    groups = (getattr(getattr(held, "hooks", {}).get("group_offloading"), "group", None) for held in registries)
    return {
        id(tensor)
        for group in groups
        if getattr(group, "offload_to_disk_path", None) is not None
        for tensor in getattr(group, "tensor_to_key", {})
    }


def _own_modules(
    module: nn.Module, path: str, stores: tuple[tuple[Mapping[str, Any], str], ...]
) -> Iterator[tuple[str, nn.Module, tuple[tuple[Mapping[str, Any], str], ...]]]:
    """Every module of the base: its path without the levels that others put in, and where offloaded tensors are."""
    while (inner := _unwrap(module)) is not module:
        module = inner
    hooked = getattr(module, "_hf_hook", None)
    for hook in getattr(hooked, "hooks", [hooked]):
        if isinstance(store := getattr(hook, "weights_map", None), Mapping):
            stores = ((store, ""), *stores)
    yield path, module, stores
    fused = CALLED_INSTEAD if getattr(module, "fused_projections", False) else {}
    for name, child in module._modules.items():
        if child is not None and name not in fused and not name.startswith((CHILD, DOOR)):
            further = tuple((store, f"{inner_path}{name}.") for store, inner_path in stores)
            yield from _own_modules(child, f"{path}.{name}" if path else name, further)


def _unwrap(module: nn.Module) -> nn.Module:
    """What PEFT, a trained copy or torch.compile is around."""
    inner: nn.Module | None = module._modules.get("_orig_mod")
    if isinstance(module, BaseTunerLayer):
        inner = module.get_base_layer()
    elif isinstance(module, AuxiliaryTrainingWrapper):
        inner = module._modules.get("original_module")
    return module if inner is None else inner


def _own_tensors(module: nn.Module, before: _Originals) -> dict[str, torch.Tensor]:
    """A module's parameters and saved buffers, as they are without what is fused into them."""
    if _is_packed(module):
        held = {"weight": module._parameters.get("weight", _PACKED), "bias": module._parameters.get("bias")}
    else:
        saved = {name: held for name, held in module._buffers.items() if name not in module._non_persistent_buffers_set}
        held = {**module._parameters, **saved}
    values = {name: before.get((id(module), name), value) for name, value in held.items()}
    return {name: value for name, value in values.items() if value is not None}


def _linear_shape(module: nn.Module) -> tuple[int, ...]:
    """The shape of a linear layer's weight, ``()`` for other modules."""
    rows, columns = getattr(module, "out_features", None), getattr(module, "in_features", None)
    is_linear = isinstance(rows, int) and isinstance(columns, int) and not module._modules.keys() - {CHILD}
    return (rows, columns) if is_linear else ()  # type: ignore[return-value]


def _is_packed(module: nn.Module) -> bool:
    """Whether a linear layer's weight is stored in another shape than its own: by quantisation."""
    weight, shape = module._parameters.get("weight"), _linear_shape(module)
    return bool(shape) and (weight is None or tuple(weight.shape) != shape)


def read_architecture(pipeline: Any, weights: LiveWeights) -> Architecture:
    """A pipeline as a base model under its class's name, read off its live models as off the folder it would save."""
    config = getattr(getattr(pipeline, "scheduler", None), "config", {})
    prediction = config.get("prediction_type")
    components = {name: _read_model(tuner.root_of(model), name, weights) for name, model in weights.models.items()}
    return Architecture(type(pipeline).__name__, components, prediction if isinstance(prediction, str) else None)


#: Where a module of the base is, its class, it, and the shapes of its tensors.
_Layout = list[tuple[str, type, "ref[nn.Module]", dict[str, torch.Size]]]
#: Of models: how they were when they were last read, and what was read. A model is read again once it has changed.
_READ: WeakKeyDictionary[nn.Module, tuple[_Layout, Model]] = WeakKeyDictionary()


def _read_model(root: nn.Module, component: str, weights: LiveWeights) -> Model:
    seen = _look_at(root)
    known = _READ.get(root)
    if known is not None and known[0] == seen:
        return known[1]
    shapes = {name: held.shape for name, held in weights[component].items()}
    model = _intern(type(root).__name__, tuple(modules_from_shapes(shapes).items()))
    # What is fused by us may have a bias where the base has none.
    if not _originals(root):
        _READ[root] = seen, model
    return model


def _look_at(root: nn.Module) -> _Layout:
    """Every module that `_own_modules` finds and the shapes of what it holds; many times as fast."""
    found: _Layout = []
    left = [("", root)]
    while left:
        path, module = left.pop()
        while (inner := _unwrap(module)) is not module:
            module = inner
        held = (*module._parameters.items(), *module._buffers.items())
        found.append(
            (path, type(module), ref(module), {name: value.shape for name, value in held if value is not None})
        )
        fused = CALLED_INSTEAD if getattr(module, "fused_projections", False) else {}
        for name, child in module._modules.items():
            if child is not None and name not in fused and not name.startswith((CHILD, DOOR)):
                left.append((f"{path}.{name}", child))
    return found


@lru_cache(maxsize=64)
def _intern(class_name: str, modules: tuple[tuple[str, Module], ...]) -> Model:
    """One `Model` for equal ones, which names are looked up in: the shipped one, where it is that."""
    held = dict(modules)
    for base in BASES:
        for part, blueprint in base.components.items():
            if blueprint.class_name == class_name and (model := load(base.name).components[part]).modules == held:
                return model
    return Model(class_name, held)
