"""Weights that change while a picture is drawn: curves over its steps or over the noise that is left."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from si_hub.errors import ConversionRefused, DocumentError, UsageError
from si_hub.foreign import make_safe

#: The document's field, and the name of the feature in ``requires``.
SCHEDULE = "schedule"
#: What a curve can run over.
OVER = ("progress", "sigma")


@dataclass(frozen=True, slots=True)
class Instant:
    """Where in the drawing of a picture the denoiser is.

    Attributes:
        step: its number, from 0, in the scheduler's whole list; image-to-image begins in the middle of it.
        steps: how many the list has.
        sigma: the scheduler's noise level: of flows 1 to 0, else noise over signal; None where it has none.
    """

    step: int
    steps: int
    sigma: float | None = None

    @property
    def progress(self) -> float:
        """0 in the first step, 1 in the last one."""
        return self.step / (self.steps - 1) if self.steps > 1 else 0.0


@dataclass(frozen=True, slots=True)
class WeightCurve:
    """Weights at points, linear between two of them, and constant before the first and after the last.

    Attributes:
        points: pairs of place and weight, places rising.
        over: ``progress`` (0 in the first step, 1 in the last) or ``sigma`` (the scheduler's noise level).

    Raises:
        UsageError: no points, places that do not rise, what is no finite number, another ``over``.
    """

    points: tuple[tuple[float, float], ...]
    over: str = "progress"

    def __post_init__(self) -> None:
        if self.over not in OVER:
            raise UsageError("a curve runs over progress or sigma", key="over", found=repr(self.over))
        try:
            pairs = tuple((float(place), float(weight)) for place, weight in self.points)
        except (TypeError, ValueError):
            raise UsageError("a curve's points are pairs of numbers", found=repr(self.points)[:80]) from None
        if not pairs or not all(math.isfinite(number) for pair in pairs for number in pair):
            raise UsageError("a curve has points of finite numbers", found=repr(self.points)[:80])
        if any(left[0] >= right[0] for left, right in pairwise(pairs)):
            raise UsageError("the places of a curve's points rise", found=[place for place, _ in pairs])
        object.__setattr__(self, "points", pairs)

    def __call__(self, now: Instant) -> float:
        """The weight at an instant.

        Raises:
            UsageError: the scheduler has no sigma that the curve runs over.
        """
        place = now.progress if self.over == "progress" else now.sigma
        if place is None:
            raise UsageError("the scheduler tells no sigma", hint="Let the curve run over progress")
        after = bisect_right([point for point, _ in self.points], place)
        if after in (0, len(self.points)):
            return self.points[min(after, len(self.points) - 1)][1]
        (left, low), (right, high) = self.points[after - 1 : after + 1]
        return low + (high - low) * (place - left) / (right - left)


@dataclass(frozen=True, slots=True)
class StepWeights:
    """One weight for every step."""

    weights: tuple[float, ...]

    def __call__(self, now: Instant) -> float:
        """Raises UsageError where there are more or fewer steps than weights."""
        if len(self.weights) != now.steps:
            raise UsageError(
                "a list of weights has one for every step", expected=f"{now.steps} weights", found=len(self.weights),
                hint="A WeightCurve fits any number of steps",
            )  # fmt: skip
        return self.weights[now.step]


#: A weight that depends on the instant.
Timed = Callable[[Instant], float]


@dataclass(frozen=True, slots=True)
class Schedule:
    """What of an adapter changes by itself: factors of its weight, and of its branches' weights by name."""

    weight: WeightCurve | None = None
    branches: Mapping[str, WeightCurve] = field(default_factory=dict)


def as_timed(value: object) -> Timed | None:
    """A weight that a user wrote as a list by step, a `WeightCurve` or a function; None for any other.

    Raises:
        UsageError: a list that holds something else than finite numbers.
    """
    if isinstance(value, Sequence) and not isinstance(value, str):
        numbers = all(
            isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one) for one in value
        )
        if not value or not numbers:
            raise UsageError("a list of weights has a finite number for every step", found=repr(value)[:80])
        return StepWeights(tuple(float(one) for one in value))
    return value if callable(value) else None


def at(timed: Timed, now: Instant) -> float:
    """The number that a weight has now.

    Raises:
        UsageError: a function that returns none; what the weight itself raises.
    """
    weight = timed(now)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise UsageError("a weight is a finite number", key=f"step {now.step}", found=repr(weight))
    return float(weight)


def read_schedule(about: Mapping[str, Any], branches: Collection[str], file: Path | None = None) -> Schedule | None:
    """The schedule in a document's fields, whose schema is checked.

    Raises:
        DocumentError: places that do not rise, or a branch that the adapter does not have.
    """
    stored = about.get(SCHEDULE)
    if stored is None:
        return None
    for name in stored.get("branches", {}):
        if name not in branches:
            known = ", ".join(branches) or "no named branches"
            raise DocumentError("no such branch", file=file, key=f"{SCHEDULE}.branches.{name}", expected=known)
    weight = None if "weight" not in stored else _curve(stored["weight"], "weight", file)
    return Schedule(weight, {n: _curve(c, f"branches.{n}", file) for n, c in stored.get("branches", {}).items()})


def describe_schedule(document: Mapping[str, Any]) -> list[str]:
    """What of a document's weights changes by step, a line each, for people."""
    stored = document.get(SCHEDULE, {})
    named = {"weight": stored["weight"]} if "weight" in stored else {}
    named |= {f"branch {name}": curve for name, curve in stored.get("branches", {}).items()}
    return [
        make_safe(f"{name} × {', '.join(f'{y:g} at {x:g}' for x, y in curve['points'][:8])} of {curve['over']}", 300)
        for name, curve in named.items()
    ]


def check_constant(about: Mapping[str, Any], file: Path | None = None) -> None:
    """Raise ConversionRefused for an adapter whose weights change by step, where one weight is what is wanted."""
    if SCHEDULE in about:
        raise ConversionRefused(
            "its weights change by step, which only the adapter itself can hold", file=file, key=SCHEDULE
        )


def _curve(stored: Any, where: str, file: Path | None) -> WeightCurve:
    try:
        return WeightCurve(tuple(map(tuple, stored["points"])), stored["over"])
    except (UsageError, TypeError, KeyError) as error:
        raise DocumentError(f"is no curve: {error}", file=file, key=f"{SCHEDULE}.{where}") from error
