"""What a user writes for weights, turned into one number per adapter, component and module."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, TypeGuard

from torch import nn

from si_hub.errors import UsageError
from si_hub.tuner.injection import live_path

#: A number, ``None`` (one), one number per layer of a block, or a table of these by block or module path.
AdapterWeight = float | Sequence[Any] | Mapping[str, Any] | None

_UNET_BLOCKS = {"down": "down_blocks", "mid": "mid_block", "up": "up_blocks"}


def share_out(
    names: Sequence[str], weights: AdapterWeight, owners: Mapping[str, Collection[str]], components: Collection[str]
) -> dict[str, dict[str, AdapterWeight]]:
    """Split the weights of several adapters by component.

    Args:
        names: the adapters to activate.
        weights: one weight for all of them, or a list with one per name; each a number, ``None`` or a table by
            component. A component that a table leaves out keeps weight one.
        owners: for every loaded adapter, the components it adapts.
        components: the pipeline's components.

    Returns:
        For every component, the weight of each named adapter that adapts it.

    Raises:
        UsageError: a name that is not loaded or given twice, a list of another length, or a table that names a
            component which the pipeline or none of the adapters it is for has.
    """
    for name in names:
        if name not in owners:
            hint = _nearest(name, owners) or "get_list_styleinject_adapters() lists them"
            raise UsageError("no such adapter is loaded", key=name, expected=_one_of(owners), hint=hint)
    if len(set(names)) < len(names):
        raise UsageError("an adapter is named twice", found=", ".join(names))
    single = not _is_list(weights)
    each = [*weights] if _is_list(weights) else [weights] * len(names)
    if len(each) != len(names):
        raise UsageError("the weights do not go with the names", expected=f"{len(names)} weights", found=len(each))
    for name, weight in zip(names, each, strict=True):
        reach = set().union(*(owners[other] for other in names)) if single else set(owners[name])
        _check_components(name, weight, reach, components)
    return {
        component: {
            name: weight.get(component) if isinstance(weight, Mapping) else weight
            for name, weight in zip(names, each, strict=True)
            if component in owners[name]
        }
        for component in components
    }


def per_module(model: nn.Module, weight: AdapterWeight, component: str = "model") -> float | Callable[[str], float]:
    """One component's weight as a number, or as a function of the module path.

    A table's keys are module paths (``"time_embedding"``, ``"transformer_blocks.1.attn"``; they match whole path
    segments, the longest one wins) and, for a UNet, ``down``, ``mid``, ``up`` and below them ``block_0`` ..., also in
    one: ``down.block_0``.
    A list gives one weight per layer of a UNet block (its attention and resnet of the same number; the down- or
    upsampler goes with the last), or per entry of a module list. What no key covers keeps weight one.

    Raises:
        UsageError: a key that names no module of the model, a list of the wrong length, a weight that is no finite
            number.
    """
    if weight is None or isinstance(weight, Real):
        return _number(weight, component)
    if not isinstance(weight, Mapping):
        raise UsageError("a component's weight is a number or a table", key=component, found=repr(weight))
    modules = dict(model.named_modules())
    table = dict(_expand(model, "", weight, component))

    def of_module(path: str) -> float:
        path = live_path(modules, path) or path
        while path and path not in table:
            path = path.rpartition(".")[0]
        return table.get(path, 1.0)

    return of_module


def _expand(model: nn.Module, path: str, weight: AdapterWeight, where: str) -> Iterator[tuple[str, float]]:
    """Pairs of module path and number, outer paths before inner ones."""
    if weight is None or isinstance(weight, Real):
        yield path, _number(weight, where)
    elif isinstance(weight, Mapping):
        for key, inner in weight.items():
            yield from _expand(model, _child(model, path, str(key), where), inner, f"{where}.{key}")
    elif _is_list(weight):
        yield from _expand_list(model, path, [*weight], where)
    else:
        raise UsageError("a weight is a number, a list or a table", key=where, found=repr(weight))


def _expand_list(model: nn.Module, path: str, weights: list[Any], where: str) -> Iterator[tuple[str, float]]:
    module: Any = model.get_submodule(path)
    if len(weights) == 1:
        yield from _expand(model, path, weights[0], where)
    elif _is_unet(model) and path in ("down_blocks", "up_blocks"):
        for index, _ in module.named_children():
            yield from _expand_list(model, f"{path}.{index}", weights, where)
    elif isinstance(module, nn.ModuleList | nn.Sequential):
        _check_length(weights, len(module), where)
        for number, weight in enumerate(weights):
            yield from _expand(model, f"{path}.{number}", weight, where)
    else:
        kinds = {kind: layers for kind, layers in module.named_children() if kind in ("attentions", "resnets")}
        if not kinds:
            raise UsageError("this module has no layers that a list could number", key=where, hint="Give one number")
        _check_length(weights, len(next(iter(kinds.values()))), where)
        yield path, _number(weights[-1], where)
        for kind, layers in kinds.items():
            for index, _ in layers.named_children():
                yield f"{path}.{kind}.{index}", _number(weights[int(index)], where)


def _child(model: nn.Module, path: str, key: str, where: str) -> str:
    child = ".".join(filter(None, (path, key)))
    if _is_unet(model):
        child = _unet_path(child)
    modules = dict(model.named_modules())
    live = live_path(modules, child)
    if live is None:
        blocks = [names for names in _blocks(model, path) if names]
        listed = ", ".join(f"{names[0]} to {names[-1]}" if len(names) > 1 else names[0] for names in blocks)
        inner = [name for name in _children(modules[path]) if name not in _UNET_BLOCKS.values()]
        raise UsageError(
            "no such block or module",
            key=f"{where}.{key}",
            expected=listed or "a number for all of it",
            hint=_nearest(key, [*(name for names in blocks for name in names), *inner]),
        )
    return live


def _unet_path(path: str) -> str:
    """The module path of a UNet's block as users write it: ``down.block_1`` is ``down_blocks.1``."""
    first, *rest = path.split(".")
    first = _UNET_BLOCKS.get(first, first)
    if rest and first in ("down_blocks", "up_blocks"):
        rest[0] = rest[0].removeprefix("block_")
    return ".".join([first, *rest])


def _blocks(model: nn.Module, path: str) -> list[list[str]]:
    """The blocks that a table may name at a path, the numbered ones of one kind together."""
    if _is_unet(model) and not path:
        present = {name: getattr(model, attribute, None) for name, attribute in _UNET_BLOCKS.items()}
        numbered = [[f"{name}.block_{n}" for n in range(len(_children(present[name])))] for name in ("down", "up")]
        return [[name] for name, block in present.items() if block is not None] + numbered
    module = model.get_submodule(path)
    if path in ("down_blocks", "up_blocks"):
        return [[f"block_{n}" for n in range(len(_children(module)))]]
    if _is_list_of_blocks(module):
        return [[str(n) for n in range(len(_children(module)))]]
    outermost = {
        name: inner
        for name, inner in module.named_modules()
        if _is_list_of_blocks(inner) and not _in_list(module, name)
    }
    return [names for name, inner in outermost.items() for names in ([name], [f"{name}.{n}" for n in _children(inner)])]


def _children(module: nn.Module | None) -> dict[str, nn.Module]:
    return {} if module is None else dict(module.named_children())


def _is_list_of_blocks(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 0


def _in_list(module: nn.Module, name: str) -> bool:
    """Whether a module is inside of a list of blocks already."""
    above = name.split(".")[:-1]
    outer = (module.get_submodule(".".join(above[:end])) for end in range(1, len(above) + 1))
    return any(map(_is_list_of_blocks, outer))


def _nearest(name: str, names: Collection[str]) -> str | None:
    """A hint at the one of ``names`` that was meant."""
    found = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean {found[0]}?" if found else None


def _is_unet(model: nn.Module) -> bool:
    return hasattr(model, "down_blocks") and hasattr(model, "up_blocks")


def _is_list(weight: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(weight, Sequence) and not isinstance(weight, str)


def _check_length(weights: Sequence[Any], expected: int, where: str) -> None:
    if len(weights) != expected:
        raise UsageError("the list has another length", key=where, expected=f"1 or {expected}", found=len(weights))


def _check_components(name: str, weight: AdapterWeight, reach: Collection[str], components: Collection[str]) -> None:
    if not isinstance(weight, Mapping):
        return
    for component in weight:
        if component not in components:
            raise UsageError(
                "the pipeline has no such component",
                key=component,
                expected=_one_of(components),
                hint=_nearest(component, components) or 'Blocks go under their component: {"unet": {"down": 0.5}}',
            )
        if component not in reach:
            raise UsageError(f"adapter {name!r} does not adapt it", key=component, expected=_one_of(sorted(reach)))


def _one_of(names: Collection[str]) -> str:
    return "one of " + ", ".join(names) if names else "none"


def _number(weight: object, where: str) -> float:
    if weight is None:
        return 1.0
    if isinstance(weight, bool) or not isinstance(weight, Real) or not math.isfinite(weight):
        raise UsageError("a weight is a finite number", key=where, found=repr(weight))
    return float(weight)
