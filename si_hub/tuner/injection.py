"""Adapters into a live model and out of it again.

``model`` is any ``nn.Module`` component: a UNet, a transformer, a text encoder; also behind ``torch.compile`` or a
``PeftModel``. Every function leaves the model as it was when it raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from si_hub.adapter import Component, Layer
from si_hub.errors import BaseMismatch, UsageError
from si_hub.storage.tensors import Tensor, torch_dtypes
from si_hub.tuner.door import Door, close_door, find_door, modules_by_path, open_door, root_of
from si_hub.tuner.fusion import check_bakeable, unfuse_from_base
from si_hub.tuner.kinds import check_bare, check_called, kind_of, working_device, working_dtype
from si_hub.tuner.layer import Control, LayerAdapter, StyleInjectLayer
from si_hub.tuner.leaves import Mismatch, Placement, build_layer, expected_shapes, mismatches, read_anew
from si_hub.tuner.ledger import Record
from si_hub.tuner.parameters import ParameterAdapter, ParameterLayer
from si_hub.tuner.steering import door_with

_TEXT_MODEL = "text_model."
_CLIP_PARTS = {"embeddings", "encoder", "final_layer_norm"}


@dataclass(frozen=True, slots=True)
class InjectReport:
    """What became of every layer of the file.

    Attributes:
        matched: layer paths that act now.
        missing: layer paths without a module (or bare parameter) in the model.
        mismatched: tensors whose shapes do not fit their module; their layers were left out whole.
    """

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: list[Mismatch] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Plan:
    """A layer ready to be attached; ``path`` is the module's own in the model, once it is known to be the only one."""

    path: str
    base: nn.Module
    parameter: str | None
    adapter: LayerAdapter | ParameterAdapter
    parent: nn.Module | None = None


@dataclass(frozen=True, slots=True)
class _Reading:
    """How values of a file come to be tensors of a model: `si_hub.tuner.leaves.Placement` without a place."""

    share: bool
    read: Callable[[Tensor], torch.Tensor]

    def to(self, device: torch.device, dtype: torch.dtype) -> Placement:
        return Placement(device, dtype, self.share, self.read)


def inject(
    model: nn.Module,
    component: Component,
    *,
    name: str,
    branches: Sequence[str] = (),
    low_cpu_mem_usage: bool = True,
    read: Callable[[Tensor], torch.Tensor] = read_anew,
    active: bool = True,
) -> InjectReport:
    """Add an adapter, with weight 1 beside those that are active already.

    Tensors go to the device and dtype of their base module (the compute dtype of a quantised or float8 base).

    Args:
        model: the component model.
        component: its layers by frozen module path.
        name: a name that no adapter of the model has, without dots.
        branches: names of the branches, for `set_styles`.
        low_cpu_mem_usage: keep tensors that fit as they are; False copies them.
        read: gives the values of a tensor, which become the layer's own.
        active: whether it acts.

    Returns:
        What matched. Where nothing did, the model is as before.

    Raises:
        UsageError: for a name that is taken or impossible.
        BaseMismatch: for a module of a class that cannot be adapted, or an incomplete layer.
    """
    check_name(model, name)
    report = InjectReport()
    plans = list(_plans(model, component, branches, _Reading(low_cpu_mem_usage, read), report))
    if not plans:
        return report
    door = open_door(model, freeze=True)
    try:
        for plan in plans:
            create = StyleInjectLayer if plan.parameter is None else ParameterLayer.of(plan.parameter)
            layer = door.layer_at(plan.path, plan.base, create, plan.parent)
            if layer.training != plan.adapter.training:
                plan.adapter.train(layer.training)
            layer.adapters[name] = plan.adapter
        door.records[name] = Record(managed=True, active=active, branches=tuple(branches))
        door.refresh()
    except BaseException:
        door.drop(name)
        close_door(model)
        raise
    return report


def needed_bytes(model: nn.Module, component: Component) -> int:
    """Bytes that an adapter's tensors will take in this model; those without a place in it take none."""
    modules = modules_by_path(model)
    total = 0
    for path, layer in component.layers.items():
        bare = "param_delta" in layer.tensors
        live = live_path(modules, path.rpartition(".")[0] if bare else path)
        if live is None:
            continue
        base = modules[live]
        parameter = base._parameters.get(path.rpartition(".")[2]) if bare else None
        dtype = working_dtype(base, model) if parameter is None else parameter.dtype
        place = Placement(working_device(base), dtype, share=True)
        total += sum(
            one.count * place.dtype_of(torch_dtypes()[one.dtype], leaf).itemsize for leaf, one in layer.tensors.items()
        )
    return total


def check_name(model: nn.Module, name: str) -> None:
    """Raise UsageError for an adapter name that is taken or cannot be one."""
    door = find_door(model)
    if door is not None and name in door.records:
        raise UsageError("the model has an adapter of that name already", key=name, hint="Choose another name")
    if not name or "." in name or any(hasattr(layer, name) for layer in _layers_of_any_kind()):
        raise UsageError(
            "impossible adapter name", key=name, hint="Choose one without dots that is no attribute of torch modules"
        )


def _layers_of_any_kind() -> tuple[nn.Module, ...]:
    return StyleInjectLayer(Control()), ParameterLayer(Control(), ""), nn.ModuleDict()


def _plans(
    model: nn.Module, component: Component, branches: Sequence[str], reading: _Reading, report: InjectReport
) -> Iterable[_Plan]:
    modules = modules_by_path(model)
    # A module that the model has under several paths (a shared embedding) goes by the first of them.
    first: dict[int, str] = {}
    for name, module in modules.items():
        first.setdefault(id(module), name)
    taken: dict[str, str] = {}
    for path, layer in component.layers.items():
        if "param_delta" in layer.tensors:
            plan = _parameter_plan(modules, path, layer, reading, report)
        else:
            plan = _module_plan(modules, model, path, layer, branches, reading, report)
        if plan is None:
            continue
        site = ".".join(filter(None, (first[id(plan.base)], plan.parameter)))
        if site in taken:
            raise BaseMismatch(f"is the same module as {taken[site]}", key=path, hint="Keep one of the two layers")
        taken[site] = path
        report.matched.append(path)
        yield replace(plan, path=site)


def live_path(modules: Mapping[str, nn.Module], path: str) -> str | None:
    """The model's own name of a frozen module path: CLIP models have ``text_model.`` or not, files always do."""
    candidates = (path, path.removeprefix(_TEXT_MODEL), _TEXT_MODEL + path)
    return next((candidate for candidate in candidates if candidate in modules), None)


def _module_plan(
    modules: Mapping[str, nn.Module],
    model: nn.Module,
    path: str,
    layer: Layer,
    branches: Sequence[str],
    reading: _Reading,
    report: InjectReport,
) -> _Plan | None:
    live = live_path(modules, path)
    if live is None:
        report.missing.append(path)
        return None
    module = modules[live]
    kind = kind_of(module, path)
    parent = modules.get(live.rpartition(".")[0], model)
    check_called(parent, path)
    shapes = expected_shapes(module, kind, layer)
    wrong = mismatches(path, module, kind, layer, shapes)
    if wrong:
        report.mismatched.extend(wrong)
        return None
    if branches and layer.branches not in {0, 1, len(branches)}:
        raise BaseMismatch(
            "the number of branches is not that of their names",
            key=path,
            expected=len(branches),
            found=layer.branches,
        )
    placement = reading.to(working_device(module), working_dtype(module, model))
    return _Plan(path, module, None, build_layer(path, module, kind, layer, placement, shapes), parent)


def _parameter_plan(
    modules: Mapping[str, nn.Module], path: str, layer: Layer, reading: _Reading, report: InjectReport
) -> _Plan | None:
    owner, _, parameter = path.rpartition(".")
    live = live_path(modules, owner)
    base = None if live is None else modules[live]
    value = None if base is None else base._parameters.get(parameter)
    if base is None or value is None:
        report.missing.append(path)
        return None
    check_bare(base, path)
    delta = layer.tensors["param_delta"]
    if tuple(delta.shape) != tuple(value.shape):
        report.mismatched.append(Mismatch(path, "param_delta", str(list(value.shape)), str(list(delta.shape))))
        return None
    device = value.device if value.device.type != "meta" else torch.device("cpu")
    placed = reading.to(device, value.dtype)(reading.read(delta), key=f"{path}.param_delta")
    adapter = ParameterAdapter(path, placed)
    return _Plan(path, base, parameter, adapter)


def remove(model: nn.Module, names: Iterable[str] | str | None = None) -> None:
    """Take adapters out, all of them by default; fused ones are unfused first.

    The base modules were never replaced; after the last adapter nothing of ours is left in the model.

    Raises:
        UsageError: for an unknown name.
    """
    names = [names] if isinstance(names, str) else names
    if names is None and find_door(model) is None:
        return
    door = door_with(model, names or ())
    chosen = list(door.records) if names is None else list(names)
    unfuse_from_base(door, [name for name in chosen if door.records[name].fused is not None])
    _drop_all(model, door, chosen)


def bake(model: nn.Module, names: Iterable[str]) -> None:
    """Take fused adapters out and leave their fused weights in: those are the model's own from now on.

    Raises:
        UsageError: for an unknown name, one that is not fused, or one that shares a module with another fused one.
    """
    chosen = list(names)
    door = door_with(model, chosen)
    check_bakeable(door, chosen)
    door.let_go(chosen)
    _drop_all(model, door, chosen)


def _drop_all(model: nn.Module, door: Door, names: Sequence[str]) -> None:
    known = [name for name in names if not door.records[name].managed]
    for name in names:
        door.drop(name)
    close_door(model)
    if known:
        _forget_configs(root_of(model), known)


def _forget_configs(root: nn.Module, names: Iterable[str]) -> None:
    """What PEFT and diffusers noted at a model when an adapter was added."""
    configs = getattr(root, "peft_config", {})
    for name in names:
        configs.pop(name, None)
    if not configs:
        root.__dict__.pop("peft_config", None)
        root.__dict__.pop("_hf_peft_config_loaded", None)


def extract(model: nn.Module, name: str) -> Component:
    """An adapter of the model in the form that files are written from; its tensors are copied.

    Raises:
        UsageError: for an unknown name, or tensors that are offloaded.
    """
    door = door_with(model, [name])
    root = root_of(model)
    component = Component(class_name=type(root).__name__)
    for _, layer in door.layers():
        if name in layer.adapters:
            adapter = layer[name]
            component.layers[_frozen_path(root, adapter.path)] = Layer(
                tensors=_tensors(adapter),
                alpha=adapter.alpha,
                transform=adapter.transform,
                pool=adapter.pool,
                groups=adapter.groups,
            )
    return component


def _frozen_path(root: nn.Module, path: str) -> str:
    """The file's word for a path: CLIP text models' have ``text_model.``, whether the live class does or not."""
    flattened = type(root).__name__.startswith("CLIPText") and path.split(".")[0] in _CLIP_PARTS
    return _TEXT_MODEL + path if flattened else path


def _tensors(adapter: LayerAdapter | ParameterAdapter) -> dict[str, Tensor]:
    """Leaves in the file's words and shapes: up is ``[out, rank]``."""
    tensors = {}
    for leaf, value in file_leaves(adapter):
        if value.device.type == "meta":
            raise UsageError("the adapter is offloaded", key=adapter.path, hint="Remove the offloading hooks first")
        tensors[leaf] = Tensor.from_torch(value.flatten(1) if leaf == "up.weight" else value)
    return tensors


def file_leaves(adapter: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of an adapter's layer by their names in the file; one of one weight has the leaf's own."""
    for name, leaf in adapter.named_children():
        for parameter, value in leaf.named_parameters():
            yield f"{name}.{parameter}" if name in {"down", "core", "up", "router"} else name, value
