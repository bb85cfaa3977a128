"""LN tuning, of PEFT: weight and bias of a norm, or of any other layer, replaced by trained ones."""

from __future__ import annotations

from si_hub.converters.dense import BaseModule, Difference, as_double
from si_hub.converters.families.contract import Family, Slots, SourceModule, Target, always
from si_hub.converters.families.full import check_differences
from si_hub.converters.naming.suffixes import spell


def check(module: SourceModule, target: Target) -> None:
    """Raise BaseMismatch where a parameter is not of the base's shape, or the base has no bias."""
    check_differences(module, target, "ln_weight", "ln_bias")


def differ(module: SourceModule, target: Target, own: BaseModule | None) -> Difference:
    """What is trained less the base's."""
    assert own is not None, "it is a function of the base's weight"
    weight, bias = module.tensors.get("ln_weight"), module.tensors.get("ln_bias")
    return Difference(
        None if weight is None else lambda: as_double(weight).reshape(target.shape) - own.weight(),
        None if bias is None else lambda: as_double(bias).flatten() - own.bias(),
    )


FAMILY = Family(
    "ln-tuning", "LN tuning", Slots.of(has_any="ln_weight ln_bias"), check, differ,
    spell("peft", ln_weight=".ln_tuning_layers.weight", ln_bias=".ln_tuning_layers.bias"), needs_base=always,
)  # fmt: skip
