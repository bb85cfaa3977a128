"""Adapters on ComfyUI's model patchers.

A module of the model is replaced by a twin that shares its parameters and has a forward hook: by the same object
patches that ComfyUI's own nodes use, which come and go with the patcher. Every transform and router acts, and nothing
is written into a weight, so that other LoRAs, offloading and quantised weights stay what they are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from si_hub import architectures
from si_hub.adapter import Adapter, Component, Layer
from si_hub.architectures.layouts import Part
from si_hub.architectures.model import Model
from si_hub.architectures.namings import LAYOUTS
from si_hub.errors import BaseMismatch, UsageError
from si_hub.tuner.kinds import kind_of, product
from si_hub.tuner.layer import LayerAdapter, give_styles
from si_hub.tuner.leaves import Placement, build_layer, mismatches

from .reading import Wish

DENOISER = "diffusion_model"
#: ComfyUI's names of text encoders, in the order in which an adapter's are tried.
ENCODERS = ("clip_l", "clip_g", "t5xxl", "umt5xxl", "gemma2_2b", "qwen25_7b", "qwen3_4b", "llama")
_TWIN = "styleinject"


@dataclass(frozen=True)
class Acting:
    """One adapter in one module: which output rows it is for, ``None`` for all, and how strongly it acts."""

    adapter: LayerAdapter
    rows: tuple[tuple[int, int], ...] | None
    weight: float


def attach(model: Any, clip: Any, adapter: Adapter, wish: Wish) -> tuple[Any, Any]:
    """Clones of ComfyUI's MODEL and CLIP with an adapter on them.

    Args:
        model: a ModelPatcher of a denoiser.
        clip: a CLIP, or None.

    Raises:
        BaseMismatch: the adapter is for another model, or for modules that this one has not.
        UsageError: the adapter has no such style.
    """
    unknown = set(wish.styles) - set(adapter.branches)
    if unknown:
        raise UsageError(
            "the adapter has no such style", key=", ".join(sorted(unknown)), found=", ".join(adapter.branches) or "none"
        )
    shares = tuple(wish.styles.get(name, 0.0) for name in adapter.branches) if wish.styles else None
    described = architectures.load(adapter.base_model.architecture).components
    for name, component in adapter.components.items():
        if name.startswith("text_encoder"):
            if clip is not None and wish.strength_clip and component.layers:
                clip = clip.clone()
                place = _find_encoder(clip.patcher, component)
                _attach_layers(clip.patcher, place, component, described.get(name), wish.strength_clip, shares)
        elif wish.strength_model and component.layers:
            model = model.clone()
            _attach_layers(model, DENOISER, component, described.get(name), wish.strength_model, shares)
    return model, clip


def attach_component(
    patcher: Any, component: Component, described: Model | None, weight: float, styles: tuple[float, ...] | None = None
) -> Any:
    """A clone of a denoiser's patcher with one component on it, of a base model that is described here."""
    patcher = patcher.clone()
    _attach_layers(patcher, DENOISER, component, described, weight, styles)
    return patcher


def _attach_layers(
    patcher: Any,
    root: str,
    component: Component,
    described: Model | None,
    weight: float,
    styles: tuple[float, ...] | None,
) -> None:
    live = dict(_reach(patcher.model, root).named_modules())
    places = _find_places(live, component, described)
    acting: dict[str, list[Acting]] = {}
    for path, layer in component.layers.items():
        native, rows = places[path]
        if "param_delta" in layer.tensors:
            patcher.add_patches({f"{root}.{native}": (layer.tensors["param_delta"].torch(),)}, weight)
            continue
        made = _build(path, layer, _original(patcher, f"{root}.{native}"), rows)
        give_styles([made], styles if made.branches > 1 else None)
        acting.setdefault(native, []).append(Acting(made, rows, weight))
    for native, parts in acting.items():
        name = f"{root}.{native}"
        before = getattr(patcher.object_patches.get(name), _TWIN, ())
        patcher.add_object_patch(name, make_twin(_original(patcher, name), (*before, *parts)))


def _find_places(
    live: Mapping[str, nn.Module], component: Component, described: Model | None
) -> dict[str, tuple[str, tuple[tuple[int, int], ...] | None]]:
    """Where every layer is in the live model: a module's name there, and the rows of a fused one.

    Raises:
        BaseMismatch: some are nowhere.
    """
    best: dict[str, tuple[str, tuple[tuple[int, int], ...] | None]] = {}
    for names in _namings(component, described):
        found = {
            part.path: (native, part.rows)
            for native, parts in names
            for part in parts
            if part.path in component.layers and _has(live, native, component.layers[part.path])
        }
        best = max(best, found, key=len)
    if missing := sorted(component.layers.keys() - best.keys()):
        raise BaseMismatch(
            f"{len(missing)} of {len(component.layers)} layers are for modules that the model has not",
            key=missing[0], hint="Load the model that the adapter is for",
        )  # fmt: skip
    return best


def _namings(component: Component, described: Model | None) -> Iterator[list[tuple[str, tuple[Part, ...]]]]:
    """What modules may be called: as the adapter has them, and in the native names of its base model."""
    yield [(path, (Part(path),)) for path in component.layers]
    if described is not None:
        for layout in LAYOUTS.values():
            yield list(layout(described).items())


def _has(live: Mapping[str, nn.Module], native: str, layer: Layer) -> bool:
    if "param_delta" not in layer.tensors:
        return native in live
    owner, _, parameter = native.rpartition(".")
    return owner in live and parameter in live[owner]._parameters


def _find_encoder(patcher: Any, component: Component) -> str:
    """ComfyUI's name of the text encoder that has the modules of a component, in their sizes.

    Raises:
        BaseMismatch: none of them has.
    """
    for name in ENCODERS:
        encoder = getattr(patcher.model, name, None)
        if encoder is None:
            continue
        live = dict(encoder.transformer.named_modules())
        path, layer = next(iter(component.layers.items()))
        if path in live and not mismatches(path, live[path], kind_of(live[path], path), layer):
            return f"{name}.transformer"
    raise BaseMismatch(
        "none of the model's text encoders is the adapter's", key=next(iter(component.layers)),
        hint="Load the model that the adapter is for, or set the strength for text encoders to 0",
    )  # fmt: skip


def _build(path: str, layer: Layer, module: nn.Module, rows: tuple[tuple[int, int], ...] | None) -> LayerAdapter:
    base = module if rows is None else _Rows(module, rows)
    kind = kind_of(base, path)
    if wrong := mismatches(path, base, kind, layer):
        raise BaseMismatch(
            "does not fit the model's module", key=f"{path}.{wrong[0].leaf}", expected=wrong[0].expected,
            found=wrong[0].found, hint="Load the model that the adapter is for",
        )  # fmt: skip
    weight = module._parameters.get("weight")
    wide = weight is None or weight.itemsize < 2 or not weight.dtype.is_floating_point
    dtype = torch.float32 if wide or weight is None else weight.dtype
    return build_layer(path, base, kind, layer, Placement(torch.device("cpu"), dtype, share=True))


def _reach(model: nn.Module, name: str) -> Any:
    found: Any = model
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _original(patcher: Any, name: str) -> nn.Module:
    """The model's own module, whatever stands in for it while another workflow is loaded."""
    found = patcher.object_patches_backup.get(name)
    found = _reach(patcher.model, name) if found is None else found
    original: nn.Module = getattr(found, f"{_TWIN}_of", found)
    return original


def make_twin(module: nn.Module, acting: tuple[Acting, ...]) -> nn.Module:
    """A module with the same parameters, the very same, and a hook that adds what the adapters contribute."""
    twin = copy.copy(module)
    twin.__dict__ = dict(module.__dict__)
    for name in ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"):
        twin.__dict__[name] = module.__dict__[name].copy()
    twin.__dict__[_TWIN], twin.__dict__[f"{_TWIN}_of"] = acting, module

    def add(base: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return contribute(base, args[0], output, acting)

    twin.register_forward_hook(add)
    return twin


def contribute(base: nn.Module, x: Tensor, output: Tensor, acting: tuple[Acting, ...]) -> Tensor:
    """The output with what all adapters add to it; each sees the base's own output (docs/FORMAT.md)."""
    total = output.clone()
    for one in acting:
        adapter = one.adapter.to(output.device)
        if one.rows is None:
            total += adapter(base, x, output, one.weight, adapter.chosen(output))
            continue
        own = _take(output, one.rows)
        part = adapter(_Rows(base, one.rows), x, own, one.weight, adapter.chosen(own))
        at = 0
        for start, stop in one.rows:
            total[..., start:stop] += part[..., at : at + stop - start]
            at += stop - start
    return total


def _take(output: Tensor, rows: tuple[tuple[int, int], ...]) -> Tensor:
    return torch.cat([output[..., start:stop] for start, stop in rows], -1)


class _Rows(nn.Module):
    """Some output rows of a fused linear layer, as a linear layer without a bias."""

    def __init__(self, base: nn.Module, rows: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self.__dict__["base"] = base  # no child: it is somebody else's
        self.rows = rows
        self.in_features = int(base.in_features)  # type: ignore[arg-type]
        self.out_features = sum(stop - start for start, stop in rows)

    def forward(self, x: Tensor) -> Tensor:
        return _take(product(self.__dict__["base"], x), self.rows)
