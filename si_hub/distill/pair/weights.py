"""A parameter of a model as it lies on disk: dtype and shape now, values when somebody asks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from si_hub.storage.tensors import Tensor

if TYPE_CHECKING:
    import torch


#: Numbers of a sample at each of three places.
SAMPLE = 256


@dataclass(frozen=True, slots=True)
class Weight:
    """One parameter.

    Attributes:
        dtype: safetensors' name of how it is stored.
        shape: in diffusers' layout, whatever the file has.
        sources: names in the file that its values come from.
        read: gives the values, a copy of the file's.
        tensor: where the bytes are, if they are the values in order.
    """

    dtype: str
    shape: tuple[int, ...]
    sources: tuple[str, ...]
    read: Callable[[], torch.Tensor] = field(repr=False)
    tensor: Tensor | None = field(default=None, repr=False)

    @classmethod
    def in_file(cls, tensor: Tensor, name: str) -> Weight:
        """A weight whose bytes lie in a safetensors file."""
        return cls(tensor.dtype, tensor.shape, (name,), tensor.torch, tensor)

    def torch(self) -> torch.Tensor:
        """The values in their own dtype, float8 as stored; not to be written to."""
        return self.read()

    @property
    def count(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    def sample(self) -> Tensor:
        """A few numbers from the start, the middle and the end; nothing else of the file is read, torch not needed."""
        starts = sorted({max(0, min(start, self.count - SAMPLE)) for start in (0, self.count // 2, self.count)})
        if self.tensor is not None:
            flat = self.tensor.reshape(self.count)
            return Tensor.concatenate([flat.rows(start, min(start + SAMPLE, self.count)) for start in starts])
        import torch

        values = self.torch().reshape(-1)
        return Tensor.from_torch(torch.cat([values[start : start + SAMPLE] for start in starts]))


def widen(weight: Weight) -> torch.Tensor:
    """The values in float32."""
    import torch

    return weight.torch().to(torch.float32)


def same_numbers(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors of one shape hold the same numbers, but for what the coarser of two dtypes cannot hold.

    A float16 release of a float32 model is that model: rounding is no training.
    """
    import torch

    if a.dtype == b.dtype:
        # torch.equal knows no float8; a negative zero counts as a difference there, which costs nothing.
        return torch.equal(a.view(torch.uint8), b.view(torch.uint8)) if a.element_size() == 1 else torch.equal(a, b)
    coarse = max(a.dtype, b.dtype, key=lambda dtype: (torch.finfo(dtype).eps, dtype.itemsize))
    return torch.equal(*(value.to(coarse).to(torch.float32) for value in (a, b)))
