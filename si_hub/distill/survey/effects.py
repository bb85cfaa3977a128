"""What each part of a change does to the predicted noise, sample by sample.

A layer's change is cut into parts: rank-one pieces of its weight's difference, its bias, a norm's weight. To first
order a part's effect on a random projection of the prediction is ``Σ gᵀ (part x)``, summed over the layer's positions.
Unlike the factored moments this is exact in how positions and layers act together.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from si_hub.distill.pair.change import ModuleKey
from si_hub.distill.survey.cores import Cores
from si_hub.tuner.kinds import evaluate, kind_of


@dataclass(frozen=True, slots=True)
class ChangeParts:
    """The parts of one module's change, in a fixed order: the pieces or the whole weight, then the bias.

    Attributes:
        down, up: of the pieces, ``[pieces, in · kernel]`` and ``[out, pieces]``; ``None`` where there are none.
        weight: the weight's difference where it is carried whole or not at all, ``None`` where there is none.
        bias: the bias's difference, ``None`` where there is none.
        kernel: shape of one row of the weight, ``[in, *kernel]``.
        cores: the pieces of a convolution between fewer inputs.
        seen, felt: lengths of the pieces' sides in the norms of the layer's moments, ``[pieces]``, as
            `si_hub.distill.survey.curvature.Pieces` has them; ``None`` where they are not known.
    """

    down: Tensor | None = None
    up: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    kernel: tuple[int, ...] = ()
    cores: Cores | None = None
    seen: Tensor | None = None
    felt: Tensor | None = None

    @property
    def names(self) -> list[str]:
        """One a part: ``0``, ``1`` ... for pieces, ``weight``, ``bias``."""
        pieces = [] if self.down is None else list(map(str, range(len(self.down))))
        return pieces + ["weight"] * (self.weight is not None) + ["bias"] * (self.bias is not None)

    def effects(self, module: nn.Module, given: Tensor, gradient: Tensor) -> Tensor:
        """Effect of each part on each sample, ``[batch, parts]``, for one call of the module.

        Args:
            module: the module.
            given: its input.
            gradient: of the projected prediction at its output, ``[batch, ...]``.
        """
        kind = kind_of(module, "")
        felt = gradient if kind.channels_last else gradient.movedim(1, -1)
        columns: list[Tensor] = []
        if self.down is not None and self.up is not None:
            inner = evaluate(module, given, self.down.to(given).reshape(-1, *self.kernel), None)
            inner = inner if kind.channels_last else inner.movedim(1, -1)
            columns.append(_over_positions(inner * (felt @ self.up.to(felt))))
        if self.weight is not None:
            change = evaluate(module, given, self.weight.to(gradient), _zero_bias(module, gradient))
            columns.append((change * gradient).flatten(1).sum(1, keepdim=True))
        if self.bias is not None:
            columns.append((_over_positions(felt) @ self.bias.to(felt))[:, None])
        return torch.cat(columns, 1)


def _over_positions(values: Tensor) -> Tensor:
    """``[batch, ..., width]`` summed to ``[batch, width]``."""
    return values.reshape(len(values), -1, values.shape[-1]).sum(1)


def _zero_bias(module: nn.Module, like: Tensor) -> Tensor | None:
    """Norms want both parameters or neither; everything else goes without a bias."""
    if isinstance(module, nn.LayerNorm | nn.GroupNorm) and module.bias is not None:
        return torch.zeros_like(module.bias, dtype=like.dtype, device=like.device)
    return None


@dataclass(slots=True)
class Effects:
    """Effects of all parts of all modules.

    Attributes:
        parts: by module.
        width: number of parts.
        values: the rows of the batch that is under way, ``[batch, width]``.
    """

    parts: dict[ModuleKey, ChangeParts]
    starts: dict[ModuleKey, int] = field(init=False)
    width: int = field(init=False)
    values: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.starts, self.width = {}, 0
        for key, parts in self.parts.items():
            self.starts[key] = self.width
            self.width += len(parts.names)
        self.begin(0)

    def begin(self, batch: int) -> None:
        """Start a new batch of so many samples."""
        self.values = torch.zeros(batch, self.width)

    def take(self) -> Tensor:
        """The effects since the last call, ``[batch, width]``; the same batch begins anew."""
        values, self.values = self.values, torch.zeros_like(self.values)
        return values

    def observe(self, key: ModuleKey, module: nn.Module, given: Tensor, gradient: Tensor) -> None:
        """Count one call of a module in; an `si_hub.distill.running.tracing.Observer`.

        Gradients that belong to the whole batch at once cannot be told apart by sample, unless there is one: such a
        module stays without effects and is not chosen.
        """
        if gradient.shape[0] != len(self.values):
            if len(self.values) != 1:
                return
            given, gradient = given[None], gradient[None]
        # A model of half precision has its effects added up in float32.
        wide = given.float() if given.is_floating_point() else given
        effects = self.parts[key].effects(module, wide, gradient.float())
        start = self.starts[key]
        self.values[:, start : start + effects.shape[1]] += effects.float().cpu()

    @property
    def columns(self) -> list[tuple[ModuleKey, str]]:
        """Module and name of every part, in the order of the columns."""
        return [(key, name) for key, parts in self.parts.items() for name in parts.names]
