"""Source modules: the tensors that belong together, and what they are to become."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from si_hub.converters.keys import Reading
from si_hub.storage.tensors import Tensor


@dataclass(slots=True)
class SourceModule:
    """The tensors of one module of the source.

    Attributes:
        stem: the module's name in the source.
        file: the source file, for messages.
        tensors: by slot.
        names: tensor name by slot.
        reading: the stem without its prefix.
        spelling: whose suffixes it has.
        alpha: the resolved numerator of alpha / rank; ``None`` means alpha = rank.
    """

    stem: str
    file: Path
    reading: Reading
    tensors: dict[str, Tensor] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    spelling: str = ""
    alpha: float | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """What the base has where a source module belongs: all its parts as one module.

    Attributes:
        kind: of the base module.
        shape: of the weight, fused parts stacked along the output axis.
        bias: whether there is one.
    """

    kind: str
    shape: tuple[int, ...]
    bias: bool


@dataclass(slots=True)
class Lowered:
    """A source module as leaves of the format, over the target's whole output."""

    leaves: dict[str, Tensor]
    alpha: float | None = None
    groups: int = 1
    folded: set[str] = field(default_factory=set)
