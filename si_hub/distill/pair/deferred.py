"""Tensors that remember what is done to them, so that diffusers' own converters can rename and split unread files.

A converter sees tensors of the right shape and dtype on torch's meta device. What it does to them (chunk, cat,
transpose ...) is recorded, and repeated on the file's bytes when a value is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from si_hub.distill.pair.weights import Weight
from si_hub.storage.tensors import Tensor, torch_names

#: Questions whose answer is a number: nothing that has no values can give it, so the values are read.
_VALUES = {torch.Tensor.item, torch.Tensor.__bool__, torch.Tensor.__float__, torch.Tensor.__int__, torch.Tensor.tolist}
#: What leaves the values as they are: repeating it would copy a memory-mapped weight for nothing.
_NOTHING = {torch.Tensor.clone, torch.Tensor.detach, torch.Tensor.contiguous}


class Deferred(torch.Tensor):
    """A tensor without values.

    Attributes:
        replay: gives the values.
        sources: names in the file that they come from.
        stored: where the bytes are, while they are the values in order.
    """

    replay: Callable[[], torch.Tensor]
    sources: tuple[str, ...]
    stored: Tensor | None

    @staticmethod
    def of(
        meta: torch.Tensor,
        replay: Callable[[], torch.Tensor],
        sources: tuple[str, ...],
        stored: Tensor | None = None,
    ) -> Deferred:
        """A deferred tensor with the shape and dtype of ``meta``."""
        deferred: Deferred = torch.Tensor._make_subclass(Deferred, meta)
        deferred.replay, deferred.sources, deferred.stored = replay, sources, stored
        return deferred

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run ``func`` on shapes only, and remember it.

        Raises:
            NotImplementedError: it writes into a tensor, which cannot be repeated.
        """
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
            raise NotImplementedError(f"{name} changes a tensor that is not read yet")
        if func in _VALUES:
            return func(*_map(args, _real), **_map(kwargs, _real))
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*_map(args, _bare), **_map(kwargs, _bare))
        if func in _NOTHING or (func is torch.cat and len(args[0]) == 1):
            first = args[0] if func in _NOTHING else args[0][0]
            if not isinstance(first, Deferred):
                return result
            given = first.replay
            # No copy where they lie in order already, and what comes next may need them to.
            replay = (lambda: given().contiguous()) if func is torch.Tensor.contiguous else given
            return cls.of(result, replay, first.sources, first.stored)
        sources: dict[str, None] = {}
        _map((args, kwargs), lambda tensor: sources.update(dict.fromkeys(tensor.sources)))

        def repeat() -> Any:
            return func(*_map(args, _real), **_map(kwargs, _real))

        if isinstance(result, torch.Tensor):
            return cls.of(result, repeat, tuple(sources))
        if isinstance(result, tuple | list) and result and all(isinstance(part, torch.Tensor) for part in result):
            return type(result)(_part(part, repeat, index, tuple(sources)) for index, part in enumerate(result))
        return result


def _part(meta: torch.Tensor, whole: Callable[[], Any], index: int, sources: tuple[str, ...]) -> Deferred:
    return Deferred.of(meta, lambda: whole()[index], sources)


def _bare(tensor: Deferred) -> torch.Tensor:
    return tensor.as_subclass(torch.Tensor)


def _real(tensor: Deferred) -> torch.Tensor:
    return tensor.replay()


def _map(value: Any, change: Callable[[Deferred], Any]) -> Any:
    """``value`` with every deferred tensor in it changed, through lists, tuples and dicts."""
    if isinstance(value, Deferred):
        return change(value)
    if isinstance(value, tuple | list):
        return type(value)(_map(part, change) for part in value)
    if isinstance(value, dict):
        return {key: _map(part, change) for key, part in value.items()}
    return value


def defer(weight: Weight) -> Deferred:
    """A file's tensor without its values."""
    dtype = {name: torch_dtype for torch_dtype, name in torch_names().items()}[weight.dtype]
    meta = torch.empty(weight.shape, dtype=dtype, device="meta")
    return Deferred.of(meta, weight.torch, weight.sources, weight.tensor)


def weights(converted: Mapping[str, Any]) -> dict[str, Weight]:
    """What a converter returned, as weights; tensors that it made up itself have no sources and are left out."""
    names = torch_names()
    return {
        key: Weight(names[value.dtype], tuple(value.shape), value.sources, value.replay, value.stored)
        for key, value in converted.items()
        if isinstance(value, Deferred)
    }
