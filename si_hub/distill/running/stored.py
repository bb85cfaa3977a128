"""Weights that stay in their files: parameters without memory, read when the turn of their block comes.

A stored parameter has the shape and dtype of its weight and no numbers: whoever computes with it outside of its block
gets NaN. What it stands for can be the base's weight, the tuned model's, or a mixture of the two, which is computed in
float32 from both files and rounded nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from si_hub.distill.pair.weights import Weight

#: Gives the numbers on a device, in whatever dtype they have.
Read = Callable[[torch.device], Tensor]


class StoredParameter(nn.Parameter):
    """A parameter whose numbers are elsewhere.

    Attributes:
        read: gives them.
    """

    read: Read

    @staticmethod
    def of(weight: Weight, dtype: torch.dtype) -> StoredParameter:
        """A parameter that is read from a weight, and counts as one of a dtype."""
        found = StoredParameter(torch.full((), math.nan, dtype=dtype).expand(weight.shape), requires_grad=False)
        found.read = mixture(weight, weight, 0.0)
        return found


def mixture(base: Weight, tuned: Weight, share: float) -> Read:
    """Reads the base's weight (0), the tuned model's (1), or what lies ``share`` of the way between, in float32."""

    def read(device: torch.device) -> Tensor:
        if share in {0.0, 1.0}:
            return (tuned if share else base).torch().to(device)
        start, end = (side.torch().to(device).float() for side in (base, tuned))
        return torch.lerp(start, end, share)

    return read
