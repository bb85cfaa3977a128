"""Dense differences in float64: what an adapter's module does to its base module, by its definition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from si_hub.architectures.layouts import Part
from si_hub.architectures.model import Module
from si_hub.errors import BaseMismatch
from si_hub.storage.tensors import Tensor

if TYPE_CHECKING:
    import torch

#: Gives values, float64, each time anew.
Values = Callable[[], "torch.Tensor"]


@dataclass(frozen=True, slots=True)
class Difference:
    """What a module of an adapter adds to weight and bias of its base module; ``None`` where it adds nothing.

    Attributes:
        weight: in the shape of the base's weight, fused parts stacked along the output axis.
        bias: ``[out]``.
    """

    weight: Values | None = None
    bias: Values | None = None


class Parameter(Protocol):
    """A parameter of a base model, unread: of a file, or of a live model."""

    @property
    def shape(self) -> Sequence[int]:
        """Its sizes."""

    def torch(self) -> torch.Tensor:
        """Its values, not to be written to."""


#: A base model's parameters: component → frozen module path and ``weight`` or ``bias`` → the parameter.
Weights = Mapping[str, Mapping[str, Parameter]]


@dataclass(frozen=True, slots=True)
class BaseModule:
    """What the base has where a module of the source belongs: all parts as one module, read when asked.

    Attributes:
        weights: of the base model, looked into when one of them is wanted.
        component: where the module is.
        parts: the base's modules, and the rows of the source's that each of them is.
        modules: their kinds and shapes.
        file: the source, for messages.
        key: the source's module, for messages.
    """

    weights: Weights
    component: str
    parts: tuple[Part, ...]
    modules: Mapping[str, Module]
    file: Path
    key: str

    def weight(self) -> torch.Tensor:
        """The weight, float64, in the target's shape, one's own.

        Raises:
            BaseMismatch: the base has no such parameter, or one of another shape.
        """
        import torch

        return self._stack("weight", torch.float64)

    def single_weight(self) -> torch.Tensor:
        """As `weight`, float32: for what is stored so, and is no small difference of its numbers."""
        import torch

        return self._stack("weight", torch.float32)

    def bias(self) -> torch.Tensor:
        """The bias, float64, ``[out]``, one's own.

        Raises:
            BaseMismatch: as `weight`.
        """
        import torch

        return self._stack("bias", torch.float64)

    def _stack(self, leaf: str, dtype: torch.dtype) -> torch.Tensor:
        import torch

        held = [self._read(part.path, leaf, dtype) for part in self.parts]
        if len(held) == 1 and self.parts[0].rows is None:
            return held[0]
        whole = torch.empty(sum(len(one) for one in held), *held[0].shape[1:], dtype=dtype)
        for part, one in zip(self.parts, held, strict=True):
            at = 0
            for start, stop in part.rows or ((0, len(one)),):
                whole[start:stop] = one[at : at + stop - start]
                at += stop - start
        return whole

    def _read(self, path: str, leaf: str, dtype: torch.dtype) -> torch.Tensor:
        module = self.modules[path]
        expected = module.shape if leaf == "weight" else module.shape[:1]
        held = self.weights.get(self.component, {})
        bare = leaf == "weight" and f"{path}.weight" not in held
        name = path if bare else f"{path}.{leaf}"
        found = held.get(name)
        if found is None or _squeeze(found.shape) != _squeeze(expected):
            raise BaseMismatch(
                f"its numbers need the base model's {name}", file=self.file, key=self.key, expected=list(expected),
                found=list(found.shape) if found else "no such weight",
            )  # fmt: skip
        return found.torch().detach().to(dtype, copy=True).reshape(expected)


def _squeeze(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without a kernel of ones: a 1x1 convolution and a linear layer are the same."""
    return tuple(shape[:2]) if set(shape[2:]) == {1} else tuple(shape)


def as_double(tensor: Tensor) -> torch.Tensor:
    """The values of a tensor of any dtype, float64, one's own."""
    import torch

    return tensor.torch().to(torch.float64, copy=True)


def once(values: Values) -> Values:
    """The same values, computed the first time they are asked for and kept: for what is small and needed often."""
    return cache(values)
