"""A distillation as plain data: what its report shows, whatever draws it.

A report of nothing but a curve is what ``--curve`` shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class LayerSpend:
    """What one layer of the adapter got.

    Attributes:
        component, module: where.
        kind: what the module is (``linear``, ``conv``, ``norm`` ...).
        rank: of the low-rank pair, 0 where there is none.
        size: bytes.
    """

    component: str
    module: str
    kind: str
    rank: int
    size: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """Squared error of the predicted noise for timesteps ``start`` … ``end`` (exclusive), divided by the base's."""

    start: int
    end: int
    error: float


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What one size would cost.

    Attributes:
        size: bytes of the file.
        predicted: share of the error left, as the budget counts it.
        measured: the same measured on held-out prompts, where it was.
    """

    size: int
    predicted: float
    measured: float | None = None


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One prompt and seed as each model draws it: title (teacher, adapter, base) → picture."""

    prompt: str
    seed: int
    images: Mapping[str, Image]


@dataclass(frozen=True, slots=True)
class Distillation:
    """Everything that a report shows; what is empty is not shown.

    Attributes:
        title: of the page.
        facts: lines of the head: base, tuned models, method ...
        size: bytes of the adapter.
        layers: in the model's order.
        error: over all timesteps.
        buckets: by timestep.
        carried: component → share of the difference that the adapter carries, 0 … 1.
        left_out: what is not in the adapter → why.
        curve: error by size.
        rows: pictures at equal seeds.
        losses: of every step of a training.
        errors: (step, error) as it was measured along a training.
        verdict: what it all comes to, in a sentence.
        commands: lines to copy by what they do: what loads the adapter, what made it.
        kinds: kind of prompt → error of its states.
    """

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    size: int | None = None
    layers: Sequence[LayerSpend] = ()
    error: float | None = None
    buckets: Sequence[Bucket] = ()
    carried: Mapping[str, float] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    curve: Sequence[CurvePoint] = ()
    rows: Sequence[ImageRow] = ()
    losses: Sequence[float] = ()
    errors: Sequence[tuple[int, float]] = ()
    verdict: str = ""
    commands: Mapping[str, str] = field(default_factory=dict)
    kinds: Mapping[str, float] = field(default_factory=dict)
