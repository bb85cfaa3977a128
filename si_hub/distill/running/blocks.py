"""A model computed block by block: activations are kept at the borders of blocks alone, and weights where they fit.

A block is what diffusers and transformers themselves say is not to be split over devices (``_no_split_modules``), the
innermost of them. Backwards, each is computed again from its inputs. Where the accelerator is not to hold the model,
the blocks' weights lie on the CPU and come when their turn does; where a CPU computes in float32 what is held in half
precision, they are widened when their turn comes; where nothing is to hold them, they are read from their files then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint

from si_hub.distill.running.stored import StoredParameter
from si_hub.tuner.parameters import ParameterLayer

_MARK = "_computed_as_block"


def innermost_blocks(model: nn.Module) -> list[nn.Module]:
    """The smallest modules of a model that its library does not split, in order; none of them is in another.

    Not the one that has the model's first parameter, by which the libraries tell the model's device and dtype.
    """
    names = set(getattr(model, "_no_split_modules", None) or ())
    found = [module for module in model.modules() if type(module).__name__ in names]
    known = set(map(id, found))
    first = next(model.parameters(), None)
    return [
        one for one in found
        if not any(id(inner) in known for inner in one.modules() if inner is not one)
        and all(parameter is not first for parameter in one.parameters())
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where a block's weights are while it computes, and as what.

    Attributes:
        device: on it.
        dtype: floating-point numbers are of it; ``None`` leaves them what they are.
    """

    device: torch.device
    dtype: torch.dtype | None = None

    def bring(self, tensor: Tensor) -> Tensor:
        """The tensor at the place: the same one where it is there already."""
        dtype = self.dtype if self.dtype is not None and tensor.is_floating_point() else tensor.dtype
        if isinstance(tensor, StoredParameter):
            return tensor.read(self.device).to(dtype).contiguous()
        return tensor.to(self.device, dtype, non_blocking=True)


def compute_by_blocks(models: Iterable[nn.Module], place: Workplace) -> None:
    """Compute models block by block from now on; what is so already stays so.

    Args:
        models: on the CPU. What is no block's goes to ``place`` for good, blocks go there and back with every call.
        place: to compute at.
    """
    anchor = torch.zeros((), requires_grad=True)
    for model in models:
        _keep_no_keys(model)
        for block in innermost_blocks(model):
            if not getattr(block, _MARK, False):
                block.forward = _forward_of(block, block.forward, place, anchor)
                setattr(block, _MARK, True)
        _move_rest(model, place)


def _keep_no_keys(model: nn.Module) -> None:
    """A text encoder that keeps the keys of what it has read would keep them twice where it is computed again."""
    config = getattr(model, "config", None)
    configs: list[Any] = [config, getattr(config, "text_config", None)]
    for one in configs:
        if getattr(one, "use_cache", False):
            one.use_cache = False


def _forward_of(block: nn.Module, forward: Callable[..., Any], place: Workplace, anchor: Tensor) -> Callable[..., Any]:
    """A block's forward that remembers nothing but its inputs."""

    def compute(*args: Any, **kwargs: Any) -> Any:
        leaves, spec = tree_flatten((args, kwargs))
        places = [at for at, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        shape: list[Any] = []

        def run(start: Tensor | None, *tensors: Tensor) -> Any:
            given = list(leaves)
            for at, tensor in zip(places, tensors, strict=True):
                given[at] = tensor
            own_args, own_kwargs = tree_unflatten(given, spec)
            with _present(block, place):
                output = forward(*own_args, **own_kwargs)
            flat, how = tree_flatten(output)
            shape[:] = [how]
            graded = any(isinstance(one, Tensor) and one.requires_grad for one in flat)
            if start is not None and torch.is_grad_enabled() and not graded:
                first = next(at for at, one in enumerate(flat) if isinstance(one, Tensor))
                flat[first] = flat[first] + 0 * start.to(flat[first])
            return tuple(flat)

        tensors = [leaves[at] for at in places]
        for at in places:
            leaves[at] = None
        # A block within which a gradient is looked at begins the graph by the anchor, though no input needs one.
        watched = any(tensor.requires_grad for tensor in tensors) or any(one._forward_hooks for one in block.modules())
        if torch.is_grad_enabled() and watched and not _is_shadowed(block):
            flat = checkpoint(run, anchor, *tensors, use_reentrant=True, preserve_rng_state=False)
        else:
            flat = run(None, *tensors)
        return tree_unflatten(list(flat), shape[0])

    return compute


def _is_shadowed(block: nn.Module) -> bool:
    """Whether an adapter stands in for a parameter of the block itself in its calls: to compute again is none."""
    return any(
        isinstance(getattr(hook, "__self__", None), ParameterLayer) for hook in block._forward_pre_hooks.values()
    )


@contextmanager
def _present(block: nn.Module, place: Workplace) -> Iterator[None]:
    """The block's weights at the place while it computes.

    Copies stand in for those that are elsewhere. A graph that is built meanwhile keeps the copies it needs, so that it
    can be gone through backwards afterwards, and is the way to the trained ones among them.
    """
    kept: list[tuple[dict[str, Any], str, Tensor]] = []
    try:
        for owner in block.modules():
            for held in cast("tuple[dict[str, Any], ...]", (owner._parameters, owner._buffers)):
                for name, tensor in held.items():
                    if tensor is not None and (brought := place.bring(tensor)) is not tensor:
                        kept.append((held, name, tensor))
                        held[name] = brought
        yield
    finally:
        for held, name, tensor in kept:
            held[name] = tensor


def inside_blocks(model: nn.Module) -> set[int]:
    """``id`` of the parameters and buffers of the layers of blocks.

    What a block has besides is small, and adapters shadow it: it is where the rest of the model is.
    """
    return {
        id(tensor)
        for block in innermost_blocks(model)
        for part in block.children()
        for tensor in (*part.parameters(), *part.buffers())
    }


def _move_rest(model: nn.Module, place: Workplace) -> None:
    """Everything to the place that is no block's layer's."""
    inside = inside_blocks(model)
    for tensor in (*model.parameters(), *model.buffers()):
        if id(tensor) not in inside:
            tensor.data = place.bring(tensor.data)
