"""Differences of norms, of LyCORIS: W += w_norm, b += b_norm. Bytes as they are."""

from __future__ import annotations

from si_hub.converters.dense import BaseModule, Difference
from si_hub.converters.families.contract import Family, Lowered, Slots, SourceModule, Target
from si_hub.converters.families.full import check_differences, differ_by, lower_differences
from si_hub.converters.naming.suffixes import spell


def check(module: SourceModule, target: Target) -> None:
    """Raise BaseMismatch where a shape differs from the base's, or the base has no bias."""
    check_differences(module, target, "w_norm", "b_norm")


def differ(module: SourceModule, target: Target, own: BaseModule | None = None) -> Difference:
    """The differences in the base's shapes."""
    return differ_by(module, target, "w_norm", "b_norm")


def lower(module: SourceModule, target: Target, own: BaseModule | None = None) -> Lowered:
    """The differences in the base's shapes."""
    return lower_differences(module, target, "w_norm", "b_norm")


FAMILY = Family(
    "norm", "norm difference", Slots.of(has_any="w_norm b_norm"), check, differ,
    spell("lycoris", w_norm=".w_norm", b_norm=".b_norm"), lower=lower,
)  # fmt: skip
