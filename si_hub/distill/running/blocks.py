"""A model computed block by block: activations are kept at the borders of blocks alone, and weights where they fit.

A block is what diffusers and transformers themselves say is not to be split over devices (``_no_split_modules``), the
innermost of them. Backwards, each is computed again from its inputs. Where the accelerator is not to hold the model,
the blocks' weights lie on the CPU and come when their turn does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint

#: Numbers of a denoiser from which on it is computed block by block, unless it is said otherwise: XL and larger.
LARGE_DENOISER = 10**9
_MARK = "_computed_as_block"


def is_large(model: nn.Module) -> bool:
    """Whether a model has more than `LARGE_DENOISER` numbers."""
    return sum(parameter.numel() for parameter in model.parameters()) > LARGE_DENOISER


def innermost_blocks(model: nn.Module) -> list[nn.Module]:
    """The smallest modules of a model that its library does not split, in order; none of them is in another."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    found = [module for module in model.modules() if type(module).__name__ in names]
    known = set(map(id, found))
    return [one for one in found if not any(id(inner) in known for inner in one.modules() if inner is not one)]


def compute_by_blocks(models: Iterable[nn.Module], device: torch.device) -> None:
    """Compute models block by block from now on; what is so already stays so.

    Args:
        models: on the CPU. What is no block's goes to ``device`` whole, blocks go there and back with every call.
        device: to compute on; on the CPU nothing moves.
    """
    anchor = torch.zeros((), requires_grad=True)
    for model in models:
        for block in innermost_blocks(model):
            if not getattr(block, _MARK, False):
                block.forward = _forward_of(block, block.forward, device, anchor)
                setattr(block, _MARK, True)
        if device.type != "cpu":
            _move_rest(model, device)


def _forward_of(
    block: nn.Module, forward: Callable[..., Any], device: torch.device, anchor: Tensor
) -> Callable[..., Any]:
    """A block's forward that remembers nothing but its inputs."""

    def compute(*args: Any, **kwargs: Any) -> Any:
        leaves, spec = tree_flatten((args, kwargs))
        places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        shape: list[Any] = []

        def run(start: Tensor, *tensors: Tensor) -> Any:
            given = list(leaves)
            for place, tensor in zip(places, tensors, strict=True):
                given[place] = tensor
            own_args, own_kwargs = tree_unflatten(given, spec)
            with _Present(block, device):
                output = forward(*own_args, **own_kwargs)
            flat, how = tree_flatten(output)
            shape[:] = [how]
            if torch.is_grad_enabled() and not any(isinstance(one, Tensor) and one.requires_grad for one in flat):
                place = next(place for place, one in enumerate(flat) if isinstance(one, Tensor))
                flat[place] = flat[place] + 0 * start.to(flat[place])
            return tuple(flat)

        tensors = [leaves[place] for place in places]
        for place in places:
            leaves[place] = None
        # A block within which a gradient is looked at begins the graph by the anchor, though no input needs one.
        watched = any(tensor.requires_grad for tensor in tensors) or any(one._forward_hooks for one in block.modules())
        if torch.is_grad_enabled() and watched:
            flat = checkpoint(run, anchor, *tensors, use_reentrant=True, preserve_rng_state=False)
        else:
            flat = run(anchor, *tensors)
        return tree_unflatten(list(flat), shape[0])

    return compute


class _Present:
    """The block's weights on the device while it computes; on the CPU nothing is moved."""

    def __init__(self, block: nn.Module, device: torch.device) -> None:
        self.block, self.device = block, device
        self.kept: list[tuple[Tensor, Tensor]] = []

    def __enter__(self) -> None:
        if self.device.type == "cpu":
            return
        for tensor in (*self.block.parameters(), *self.block.buffers()):
            if tensor.device != self.device:
                self.kept.append((tensor, tensor.data))
                tensor.data = tensor.data.to(self.device, non_blocking=True)

    def __exit__(self, *_: object) -> None:
        for tensor, home in self.kept:
            tensor.data = home


def _move_rest(model: nn.Module, device: torch.device) -> None:
    """Everything to the device that is no block's."""
    inside = {id(tensor) for block in innermost_blocks(model) for tensor in (*block.parameters(), *block.buffers())}
    for tensor in (*model.parameters(), *model.buffers()):
        if id(tensor) not in inside:
            tensor.data = tensor.data.to(device)
