"""What a family of adapters is: which tensors its modules have, what they fit, and what they become."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from si_hub.adapter import Pool, Transform
from si_hub.converters.dense import BaseModule, Difference
from si_hub.converters.naming.names import Reading
from si_hub.converters.naming.suffixes import Suffix
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
        config: PEFT's configuration of its component, where there is one.
        whole: slots whose tensors are the trained parameter itself, until the base's is subtracted.
    """

    stem: str
    file: Path
    reading: Reading
    tensors: dict[str, Tensor] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    spelling: str = ""
    alpha: float | None = None
    config: Mapping[str, Any] | None = None
    whole: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Target:
    """What the base has where a source module belongs: all its parts as one module.

    Attributes:
        kind: of the base module.
        shape: of the weight, fused parts stacked along the output axis.
        bias: whether there is one.
        cuts: rows where one part ends and the next begins; none for a module of one part.
    """

    kind: str
    shape: tuple[int, ...]
    bias: bool
    cuts: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """Numbers of the weight."""
        return math.prod(self.shape)


@dataclass(slots=True)
class Lowered:
    """A source module as leaves of the format, over the target's whole output."""

    leaves: dict[str, Tensor]
    alpha: float | None = None
    groups: int = 1
    transform: Transform = "add"
    pool: Pool = "mean"

    @property
    def count(self) -> int:
        """Numbers of all leaves."""
        return sum(leaf.count for leaf in self.leaves.values())


@dataclass(frozen=True, slots=True)
class Slots:
    """A condition on the slots of one module.

    Attributes:
        has_all: each of them is there.
        has_any: at least one of them is, where any is named.
        may: nothing outside these, ``has_all`` and ``has_any`` is there.
    """

    has_all: frozenset[str] = frozenset()
    has_any: frozenset[str] = frozenset()
    may: frozenset[str] = frozenset()

    @classmethod
    def of(cls, has_all: str = "", has_any: str = "", may: str = "") -> Slots:
        """Slots by their names, parted by spaces."""
        return cls(frozenset(has_all.split()), frozenset(has_any.split()), frozenset(may.split()))

    def objection(self, slots: Collection[str]) -> str | None:
        """Why a module with these slots is not of the family; ``None`` if it is."""
        held = set(slots)
        if missing := self.has_all - held:
            return f"lacks {', '.join(sorted(missing))}"
        if self.has_any and not self.has_any & held:
            return f"lacks any of {', '.join(sorted(self.has_any))}"
        if extra := held - self.has_all - self.has_any - self.may:
            return f"has {', '.join(sorted(extra))} besides"
        return None


Fits = Callable[[SourceModule, Target], None]
Rank = Callable[[SourceModule], "int | None"]
AxesOf = Callable[[SourceModule], tuple[int, ...]]
Needs = Callable[[SourceModule, Target], bool]
Differ = Callable[[SourceModule, Target, "BaseModule | None"], Difference]
Lower = Callable[[SourceModule, Target, "BaseModule | None"], Lowered]


def never(module: SourceModule, target: Target) -> bool:
    """No module of the family needs the base's weights."""
    return False


def always(module: SourceModule, target: Target) -> bool:
    """Every module of the family needs the base's weights."""
    return True


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of adapter.

    Attributes:
        name: stable, for scripts.
        title: for people.
        when: the slots a module of it has.
        fits: raises BaseMismatch where the shapes are not the base module's, LayerShapeError where they contradict
            each other; nothing but shapes is looked at.
        differ: its definition: the dense difference of a module, in float64.
        suffixes: of its tensors' names, where no other family has said them already.
        rank: of a module, by its shapes, where the family's scale is alpha / rank; ``None`` for a family without one,
            and for a module without one, whose alpha says nothing.
        axes: numbers of axes of the tensors that are written for a linear layer or for a convolution; in all files
            these are the base weight's or not, whatever the family.
        lower: gives the format's leaves where there are smaller ones than the dense difference.
        needs_base: whether a module is a function of the base model's own weights.
        reason: why it is not converted, where it is only known.
    """

    name: str
    title: str
    when: Slots
    fits: Fits
    differ: Differ | None = None
    suffixes: Mapping[str, Suffix] = field(default_factory=dict)
    rank: Rank | None = None
    axes: AxesOf | None = None
    lower: Lower | None = None
    needs_base: Needs = never
    reason: str = ""

    @property
    def is_converted(self) -> bool:
        """Whether it is converted at all."""
        return self.differ is not None

    def rank_of(self, module: SourceModule) -> int | None:
        """The rank of a module, where its scale is alpha / rank."""
        return self.rank(module) if self.rank else None

    def lower_module(self, module: SourceModule, target: Target, own: BaseModule | None) -> Lowered:
        """A module as the format's leaves: the family's own, or the dense difference."""
        assert self.differ is not None, "what is not converted is left out"
        lower = self.lower
        return lower(module, target, own) if lower else lower_whole(self.differ(module, target, own), target)


def lower_whole(difference: Difference, target: Target) -> Lowered:
    """A dense difference as it is, float32, computed when it is read."""
    leaves: dict[str, Tensor] = {}
    if difference.weight:
        leaf = "param_delta" if target.kind == "parameter" else "weight_delta"
        leaves[leaf] = Tensor.compute(target.shape, difference.weight)
    if difference.bias:
        leaves["bias_delta"] = Tensor.compute(target.shape[:1], difference.bias)
    return Lowered(leaves)


def scale_of(module: SourceModule, rank: int | None) -> float:
    """alpha / rank, once the module's alpha is resolved; a module without a rank has its scale in alpha."""
    return 1.0 if module.alpha is None else module.alpha / (rank or 1)
