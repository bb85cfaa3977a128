"""What differs between a base and a tuned model, module by module."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from si_hub.architectures.model import ModuleKind
from si_hub.distill.pair.model import ModelOnDisk
from si_hub.distill.pair.weights import Weight, widen
from si_hub.errors import NotFinite

if TYPE_CHECKING:
    import torch


#: A module of a pipeline: component and frozen path.
ModuleKey = tuple[str, str]
#: A parameter of base and tuned model.
BaseAndTuned = tuple[Weight, Weight]


@dataclass(frozen=True, slots=True)
class Change:
    """A module whose parameters differ.

    Attributes:
        component, module: where; ``module`` is the frozen path.
        kind: of the module, as in the architecture's table; a ``parameter`` is a bare one.
        shape: of the weight, ``[out, in, *kernel]``.
        weight, bias: the base's and the tuned model's; ``None`` where the module has none or they are equal.
    """

    component: str
    module: str
    kind: ModuleKind
    shape: tuple[int, ...]
    weight: BaseAndTuned | None
    bias: BaseAndTuned | None

    @property
    def key(self) -> ModuleKey:
        """Where, to look it up by."""
        return self.component, self.module

    @property
    def name(self) -> str:
        """Where, as text."""
        return f"{self.component}.{self.module}"

    def delta(self) -> torch.Tensor | None:
        """Tuned weight minus the base's, float32, shape ``shape``; ``None`` where they are equal."""
        return _difference(self.weight)

    def bias_delta(self) -> torch.Tensor | None:
        """Tuned bias minus the base's, float32; ``None`` where they are equal or there is none."""
        return _difference(self.bias)

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns of the weight as a matrix: outputs, and inputs with their kernel."""
        return (self.shape[0], math.prod(self.shape[1:])) if self.shape else (1, 1)

    @property
    def count(self) -> int:
        """Numbers in the weight and bias that differ."""
        return sum(sides[0].count for sides in (self.weight, self.bias) if sides)


def _difference(sides: BaseAndTuned | None) -> torch.Tensor | None:
    if sides is None:
        return None
    base, tuned = sides
    wide = widen(tuned)
    # A float32 weight is the file's own memory, a widened one is ours.
    # torch widens these on the way, without a second copy.
    less = base.torch() if base.dtype in {"F32", "F16", "BF16"} else widen(base)
    return wide - less if tuned.dtype == "F32" else wide.sub_(less)


def not_finite(name: str) -> NotFinite:
    """The error for a pair whose difference is no number."""
    return NotFinite(
        "the base or the tuned model has NaN or infinity in this module", key=name,
        hint="Training or a download damaged one of them; take another copy.",
    )  # fmt: skip


def modules_of_both(base: ModelOnDisk, tuned: ModelOnDisk) -> Iterator[Change]:
    """Every module that both models have, with both sides' parameters, equal ones included."""
    for component, model in tuned.architecture.components.items():
        held, new = base.components[component], tuned.components[component]
        for path, module in model.modules.items():
            name = path if module.kind == "parameter" else f"{path}.weight"
            if name not in held:
                continue
            bias = (held[f"{path}.bias"], new[f"{path}.bias"]) if module.bias else None
            yield Change(component, path, module.kind, module.shape, (held[name], new[name]), bias)
