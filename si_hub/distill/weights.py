"""A parameter of a model as it lies on disk: dtype and shape now, values when somebody asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from si_hub.storage.tensors import Tensor

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Weight:
    """One parameter.

    Attributes:
        dtype: safetensors' name of how it is stored.
        shape: in diffusers' layout, whatever the file has.
        sources: names in the file that its values come from.
        read: gives the values; memory-mapped wherever the file's bytes are the values in order.
    """

    dtype: str
    shape: tuple[int, ...]
    sources: tuple[str, ...]
    read: Callable[[], torch.Tensor] = field(repr=False)

    @classmethod
    def stored(cls, tensor: Tensor, name: str) -> Weight:
        """A weight whose bytes lie in a safetensors file."""
        return cls(tensor.dtype, tensor.shape, (name,), tensor.torch)

    def torch(self) -> torch.Tensor:
        """The values in their own dtype, float8 as stored; private memory that may be written to without harm."""
        return self.read()

    @property
    def count(self) -> int:
        """How many numbers."""
        count = 1
        for size in self.shape:
            count *= size
        return count


def widened(weight: Weight) -> torch.Tensor:
    """The values in float32."""
    import torch

    return weight.torch().to(torch.float32)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors of one shape hold the same numbers, but for what the coarser of two dtypes cannot hold.

    A float16 release of a float32 model is that model: rounding is no training.
    """
    import torch

    if a.dtype == b.dtype:
        # torch.equal knows no float8; a negative zero counts as a difference there, which costs nothing.
        return torch.equal(a.view(torch.uint8), b.view(torch.uint8)) if a.element_size() == 1 else torch.equal(a, b)
    coarse = max(a.dtype, b.dtype, key=lambda dtype: (torch.finfo(dtype).eps, dtype.itemsize))
    return torch.equal(*(value.to(coarse).to(torch.float32) for value in (a, b)))
