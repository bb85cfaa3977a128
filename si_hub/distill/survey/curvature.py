"""Which directions of a layer's weight are felt in the predicted noise, and its change in that order.

Pieces of a change ΔW are the singular triplets of ``L_gᵀ ΔW L_c``, where ``L_c L_cᵀ`` is the second moment of the
layer's (unfolded) inputs and ``L_g L_gᵀ`` that of the gradients at its output, mapped back by the inverse roots.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from si_hub.distill.pair.change import Change, ModuleKey
from si_hub.distill.survey.cores import Cores, fit_cores
from si_hub.distill.survey.lowrank import balance, singular
from si_hub.distill.survey.moments import Moment, Root, dense_limit, moment
from si_hub.tuner.kinds import kind_of

#: Positions of a sample that count into the moments of a layer, at most.
POSITIONS = 1024
#: Bytes that whole matrices may take together; a sketch takes less than the matrix, whatever the width.
ROOM = 1 << 30


def limit_of(changes: Sequence[Change], room: int = ROOM) -> int:
    """The width up to which moments are whole matrices, if those of all layers are to fit into ``room`` bytes."""
    return dense_limit(chain.from_iterable(change.matrix for change in changes), room)


class LayerMoments(NamedTuple):
    """Moments of a layer's unfolded inputs, and of the gradients at its output."""

    inputs: Moment
    outputs: Moment


@dataclass(slots=True)
class Curvature:
    """Moments of the inputs and output gradients of layers.

    Attributes:
        changes: the layers.
        limit: width above which moments are sketched.
        device: where they are.
        moments: of each layer.
    """

    changes: Sequence[Change]
    limit: int
    device: torch.device
    moments: dict[ModuleKey, LayerMoments] = field(init=False)

    def __post_init__(self) -> None:
        self.moments = {}
        for change in self.changes:
            outputs, inputs = (moment(width, self.limit, self.device) for width in change.matrix)
            self.moments[change.key] = LayerMoments(inputs, outputs)

    def observe(self, key: ModuleKey, module: nn.Module, given: Tensor, gradient: Tensor) -> None:
        """Count one call of a layer in; an `si_hub.distill.running.tracing.Observer`.

        Positions of which nothing is felt at all are no positions: padding behind a mask.
        """
        inputs, outputs = self.moments[key]
        last = gradient if kind_of(module, "").channels_last else gradient.movedim(1, -1)
        felt = _thin(last.reshape(len(last), -1, last.shape[-1])).flatten(0, 1).float()
        seen = _thin(unfold_inputs(module, given)).flatten(0, 1).float()
        counted = felt.any(1)
        inputs.add(seen[counted] if len(seen) == len(felt) else seen)
        outputs.add(felt[counted])

    def as_tensors(self) -> dict[str, Tensor]:
        """Every sum by a name."""
        return {
            _name(key, side, leaf): tensor
            for key, pair in self.moments.items()
            for side, one in zip(_ENDS, pair, strict=True)
            for leaf, tensor in one.tensors.items()
        }

    def add_up(self, runs: Sequence[Mapping[str, Callable[[], Tensor]]]) -> None:
        """Take the sums of several runs, in their order, each as `as_tensors` named them."""
        for key, pair in self.moments.items():
            for side, one in zip(_ENDS, pair, strict=True):
                for leaf, tensor in one.tensors.items():
                    parts = [run[_name(key, side, leaf)]().to(self.device).double() for run in runs]
                    one.tensors[leaf] = sum(parts, torch.zeros_like(tensor, dtype=torch.float64))


_ENDS = ("input", "output")


def _name(key: ModuleKey, side: str, leaf: str) -> str:
    return "|".join((*key, side, leaf))


def unfold_inputs(module: nn.Module, given: Tensor) -> Tensor:
    """What a layer's weight, as a matrix, is multiplied with: ``[batch, positions, in · kernel]``."""
    if not isinstance(module, nn.Conv2d):
        return given.reshape(len(given), -1, given.shape[-1])
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = nn.functional.pad(given, module._reversed_padding_repeated_twice, mode=mode)
    return nn.functional.unfold(padded, module.kernel_size, module.dilation, 0, module.stride).transpose(1, 2)


def _thin(rows: Tensor) -> Tensor:
    """``rows [batch, positions, width]`` at no more than `POSITIONS` positions, evenly spread."""
    positions = rows.shape[1]
    if positions <= POSITIONS:
        return rows
    return rows[:, torch.linspace(0, positions - 1, POSITIONS, device=rows.device).long()]


@dataclass(frozen=True, slots=True)
class Felt:
    """``L_outᵀ Δ L_in``: a matrix whose singular values are what is felt, formed only as far as its roots are.

    Attributes:
        matrix: Δ, times the roots that are formed.
        into, out: the other roots.
    """

    matrix: Tensor
    into: Root | None
    out: Root | None

    @classmethod
    def of(cls, delta: Tensor, into: Root, out: Root) -> Felt:
        matrix = into.times(delta) if into.formed else delta
        matrix = out.times(matrix.T).T if out.formed else matrix
        return cls(matrix, None if into.formed else into, None if out.formed else out)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.matrix.shape)

    @property
    def device(self) -> torch.device:
        return self.matrix.device

    @property
    def T(self) -> Felt:  # noqa: N802 - the name that torch has for it
        return Felt(self.matrix.T, self.out, self.into)

    def __matmul__(self, columns: Tensor) -> Tensor:
        inner = columns if self.into is None else self.into.times_turned(columns.T).T
        found = self.matrix @ inner
        return found if self.out is None else self.out.times(found.T).T

    def form(self) -> Tensor:
        """The matrix itself."""
        matrix = self.matrix if self.into is None else self.into.times(self.matrix)
        return matrix if self.out is None else self.out.times(matrix.T).T


class Pieces(NamedTuple):
    """The leading pieces of a layer's weight difference, each with its σ shared by both sides.

    Attributes:
        down, up: ``[count, in · kernel]`` and ``[out, count]``.
        seen, felt: lengths of down's rows in the norm of the inputs, of up's columns in that of the gradients,
            ``[count]``: of length 1 in these norms, no direction is louder than another.
        cores: where there is a kernel to be small.
    """

    down: Tensor
    up: Tensor
    seen: Tensor
    felt: Tensor
    cores: Cores | None


def pieces(delta: Tensor, inputs: Moment, outputs: Moment, count: int, generator: torch.Generator) -> Pieces:
    """The leading pieces of a weight difference.

    Args:
        delta: ``[out, in, *kernel]``.
        inputs, outputs: its layer's moments.
        count: how many; fewer where the matrix has not so many.
        generator: of the randomized decomposition.
    """
    into, out = inputs.root(), outputs.root()
    left, sigma, right = singular(Felt.of(delta.flatten(1).float(), into, out), count, generator=generator)
    down, up = balance(into.over(right), out.over(left.T).T * sigma)
    kernel = tuple(delta.shape[2:])
    cores = fit_cores(down, sigma.square(), into, kernel) if math.prod(kernel) > 1 else None
    return Pieces(down, up, into.times(down).norm(dim=1), out.times(up.T).norm(dim=1), cores)
