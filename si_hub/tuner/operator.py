"""The mathematics of one layer as pure functions of tensors: no modules, no state.

With h the base layer's output and x its input, an adapter of user weight w adds c (docs/FORMAT.md)::

    s  = softmax(R · pool(x) + r0)
    Δh = (alpha / rank) · B · Σ_i s_i · A_i x
    r  = w · [(gain − 1) ⊙ h + turn h + W0((gain_in − 1) ⊙ x + turn_in x) + weight_delta x + bias_delta]
    c  = r + δT(h + r, w · Δh)

Shapes: ``N`` instances of a batch, ``C`` channels, ``n`` branches, ``r`` the rank. A *channels-last* tensor is
``[N, *tokens, C]`` (linear layers, norms over features, embeddings), any other is ``[N, C, *space]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

#: Added to every variance before its root, so that a constant channel has a finite normal form.
EPSILON = 1e-5

Axes = tuple[int, ...]


def inner_axes(ndim: int, channels_last: bool) -> Axes:
    """The token or space axes of a batched tensor: everything but instances and channels."""
    return tuple(range(1, ndim - 1)) if channels_last else tuple(range(2, ndim))


def on_channels(vector: Tensor, ndim: int, channels_last: bool) -> Tensor:
    """A ``[C]`` vector in a shape that broadcasts over a tensor of ``ndim`` axes."""
    return vector if channels_last else vector.reshape(-1, *[1] * (ndim - 2))


def turn_channels(blocks: Tensor, tensor: Tensor, channels_last: bool) -> Tensor:
    """A matrix of square blocks on its diagonal, times the channels of a tensor.

    Args:
        blocks: ``[C / b, b, b]``.
        tensor: ``[N, *tokens, C]`` or ``[N, C, *space]``.
    """
    axis = tensor.ndim - 1 if channels_last else 1
    split = unflatten(tensor, axis, blocks.shape[0])
    product = torch.einsum("n...kb,kcb->n...kc" if channels_last else "nkb...,kcb->nkc...", split, blocks)
    return product.reshape(tensor.shape)


def unflatten(tensor: Tensor, axis: int, *sizes: int) -> Tensor:
    """One axis split in several; the last of them is what is left (torch's own method has no types)."""
    axis %= tensor.ndim
    return tensor.reshape(*tensor.shape[:axis], *sizes, -1, *tensor.shape[axis + 1 :])


def wide_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype that statistics and softmax are taken in: float32, or float64 where the features are."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def wide(tensor: Tensor) -> Tensor:
    return tensor.to(wide_dtype(tensor))


def pool(x: Tensor, axes: Axes) -> Tensor:
    """Mean over the token or space axes, ``[N, C]``, at least float32; a tensor without such axes is its own mean."""
    x = wide(x)
    return x.mean(axes) if axes else x


def route(pooled: Tensor, weight: Tensor | None, bias: Tensor) -> Tensor:
    """The style probabilities: ``[N, n]`` of a learned router, ``[n]`` of a fixed one (no ``weight``)."""
    with _without_autocast(pooled.device):
        bias = bias.to(pooled.dtype)
        logits = bias if weight is None else F.linear(pooled, weight.to(pooled.dtype), bias)
        return torch.softmax(logits, dim=-1)


def is_autocast_on(device: torch.device) -> bool:
    """Whether operations on a device cast by themselves; the meta device and some others know no autocast."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Branches that are chosen, in place of a router.

    Attributes:
        used: numbers of the k branches that have a weight anywhere, on the device; None for all n.
        s: ``[k]``, or ``[N, k]`` for every instance its own.
        branches: n.
    """

    used: Tensor | None
    s: Tensor
    branches: int

    def whole(self) -> Tensor:
        """s over all n branches."""
        if self.used is None:
            return self.s
        return self.s.new_zeros(*self.s.shape[:-1], self.branches).index_copy_(-1, self.used, self.s)

    def of(self, down: Tensor) -> Tensor:
        """The down matrices of the chosen branches, ``[k * r, ...]``."""
        if self.used is None:
            return down
        blocks = down.reshape(self.branches, -1, *down.shape[1:])
        return blocks.index_select(0, self.used).flatten(0, 1)


def select(rows: Sequence[Sequence[float]], like: Tensor) -> Selection:
    """What rows of branch weights choose: a thousand branches of which eight are wanted cost eight.

    Args:
        rows: one weight per branch; a single row is for every instance.
        like: a tensor whose device and (at least float32) dtype s has.
    """
    branches = len(rows[0])
    used = [branch for branch in range(branches) if any(row[branch] for row in rows)] or [0]
    s = torch.tensor([[row[branch] for branch in used] for row in rows], device=like.device, dtype=wide_dtype(like))
    where = None if len(used) == branches else torch.tensor(used, device=like.device)
    return Selection(where, s[0] if len(rows) == 1 else s, branches)


def mix(down: Tensor, s: Tensor) -> Tensor:
    """Σ_i s_i A_i before anything is multiplied.

    Args:
        down: ``[n * r, ...]``, branch after branch.
        s: ``[n]`` or ``[N, n]``.

    Returns:
        ``[r, ...]`` or ``[N, r, ...]``.
    """
    n = s.shape[-1]
    rank = down.shape[0] // n
    mixed = s.to(down.dtype) @ down.reshape(n, -1)
    return mixed.reshape(*s.shape[:-1], rank, *down.shape[1:])


def weigh(products: Tensor, s: Tensor, channels_last: bool) -> Tensor:
    """Σ_i s_i (A_i x) from all n products.

    Args:
        products: ``[N, *tokens, n * r]`` or ``[N, n * r, *space]``.
        s: ``[n]`` or ``[N, n]``.

    Returns:
        ``[N, *tokens, r]`` or ``[N, r, *space]``.
    """
    n = s.shape[-1]
    axis = products.ndim - 1 if channels_last else 1
    split = unflatten(products, axis, n)
    shape = [1] * split.ndim
    shape[axis] = n
    if s.ndim == 2:
        shape[0] = s.shape[0]
    weighted: Tensor = (split * s.to(products.dtype).reshape(shape)).sum(axis)
    return weighted


def mixing_pays(branches: int, instances: int, positions: int, constant: bool) -> bool:
    """Whether mixing the A_i first costs fewer multiplications than n products.

    Per instance of ``positions`` output positions, in units of one A_i: n products cost n · positions; mixing costs n
    once for every different s, then positions. `benchmarks/operator.py` measures both.
    """
    mixtures = 1 if constant else instances
    return mixtures * branches + instances * positions < instances * branches * positions


def transpose_kron(product: Tensor, kron: Tensor, instances: int) -> Tensor:
    """Apply the left Kronecker factor over the blocks of channels.

    Args:
        product: ``[N * i1, C, *space]`` or ``[..., i1, C]``: see ``instances``.
        kron: ``[o1, i1]``.
        instances: ``N`` for the convolution layout, 0 for the linear one.

    Returns:
        ``[N * o1, C, *space]`` or ``[..., o1, C]``.
    """
    kron = kron.to(product.dtype)
    if not instances:
        return kron @ product
    blocks = product.reshape(instances, kron.shape[1], -1)
    return (kron @ blocks).reshape(instances * kron.shape[0], *product.shape[1:])


def spread(u: Tensor, axes: Axes) -> tuple[Tensor, Tensor]:
    """u − μ(u) and σ(u) = √(population variance + 1e-5), per instance and channel."""
    centred = u - u.mean(axes, keepdim=True)
    return centred, (centred.square().mean(axes, keepdim=True) + EPSILON).sqrt()


def _variance(u: Tensor, dh: Tensor, axes: Axes) -> Tensor:
    centred, sigma = spread(u, axes)
    return dh * centred / sigma


def _restyle(u: Tensor, dh: Tensor, axes: Axes) -> Tensor:
    # σ(u + Δh) / σ(u) − 1 without its cancellation: var(u + Δh) − var(u) = mean(dc · (2 uc + dc)), c: centred.
    centred, sigma = spread(u, axes)
    centred_dh = dh - dh.mean(axes, keepdim=True)
    gained = (centred_dh * (2 * centred + centred_dh)).mean(axes, keepdim=True)
    _, new_sigma = spread(u + dh, axes)
    return gained / (sigma * (sigma + new_sigma)) * centred


def _adain(u: Tensor, dh: Tensor, axes: Axes) -> Tensor:
    return _restyle(u, dh, axes) + dh.mean(axes, keepdim=True)


_TRANSFORMS: dict[str, Callable[[Tensor, Tensor, Axes], Tensor]] = {
    "variance": _variance,
    "restyle": _restyle,
    "adain": _adain,
}


def apply_transform(transform: str, u: Tensor, dh: Tensor, axes: Axes) -> Tensor:
    """δT(u, Δh): what the injection adds to u; exactly zero where Δh is zero.

    Args:
        transform: one of `si_hub.adapter.TRANSFORMS`.
        u: features, ``[N, *tokens, C]`` or ``[N, C, *space]``.
        dh: Δh of the same shape.
        axes: the token or space axes; where they have one element together, every transform is ``add``.

    Returns:
        A tensor of u's shape, in the dtype of ``dh``. Statistics are float32 or wider.
    """
    if transform == "add" or _elements(u, axes) == 1:
        return dh
    return _TRANSFORMS[transform](wide(u), wide(dh), axes).to(dh.dtype)


def _elements(u: Tensor, axes: Axes) -> int:
    count = 1
    for axis in axes:
        count *= u.shape[axis]
    return count
