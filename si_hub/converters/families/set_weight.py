"""Adapters that replace weights: ComfyUI's ``set_weight``, and Black Forest Labs' norms beside their pairs."""

from __future__ import annotations

from si_hub.converters.dense import BaseModule, Difference, Values, as_double
from si_hub.converters.families.contract import Family, Slots, SourceModule, Target, always
from si_hub.converters.families.shapes import bias_difference, check_bias, check_difference
from si_hub.converters.naming.suffixes import spell


def check(module: SourceModule, target: Target) -> None:
    """Raise BaseMismatch where the weight has another shape than the base's."""
    check_difference(module, "set_weight", target)
    if "diff_b" in module.tensors:
        check_bias(module, "diff_b", target)


def differ(module: SourceModule, target: Target, own: BaseModule | None) -> Difference:
    """The weight less the base's."""
    assert own is not None, "it is a function of the base's weight"
    values: Values = lambda: as_double(module.tensors["set_weight"]).reshape(target.shape) - own.weight()  # noqa: E731
    return Difference(values, bias_difference(module, "diff_b"))


FAMILY = Family(
    "set", "replaced weights", Slots.of("set_weight", may="diff_b"), check, differ,
    spell("comfy", set_weight=".set_weight", reshape=".reshape_weight") | spell("bfl", set_weight=".scale"),
    needs_base=always,
)  # fmt: skip
