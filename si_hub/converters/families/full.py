"""Full differences, of LyCORIS and ComfyUI: W += diff, b += diff_b. Bytes as they are; there is no alpha."""

from __future__ import annotations

from si_hub.converters.dense import BaseModule, Difference, as_double
from si_hub.converters.families.contract import Family, Lowered, Slots, SourceModule, Target
from si_hub.converters.families.shapes import bias_delta, bias_difference, check_bias, check_difference, reshape
from si_hub.converters.naming.suffixes import spell
from si_hub.storage.tensors import Tensor


def check(module: SourceModule, target: Target) -> None:
    """Raise BaseMismatch where a shape differs from the base's, or the base has no bias."""
    check_differences(module, target, "diff", "diff_b")


def differ(module: SourceModule, target: Target, own: BaseModule | None = None) -> Difference:
    """The differences in the base's shapes."""
    return differ_by(module, target, "diff", "diff_b")


def lower(module: SourceModule, target: Target, own: BaseModule | None = None) -> Lowered:
    """The differences in the base's shapes."""
    return lower_differences(module, target, "diff", "diff_b")


def check_differences(module: SourceModule, target: Target, weight: str, bias: str) -> None:
    """Raise BaseMismatch where a difference in the slots ``weight`` and ``bias`` is not for the base module."""
    if weight in module.tensors:
        check_difference(module, weight, target)
    if bias in module.tensors:
        check_bias(module, bias, target)


def differ_by(module: SourceModule, target: Target, weight: str, bias: str) -> Difference:
    """What the slots ``weight`` and ``bias`` hold, in the base's shapes."""
    held = module.tensors.get(weight)
    values = None if held is None else lambda: as_double(held).reshape(target.shape)
    return Difference(values, bias_difference(module, bias))


def lower_differences(module: SourceModule, target: Target, weight: str, bias: str) -> Lowered:
    """What the slots ``weight`` and ``bias`` hold, as leaves of the base module or bare parameter."""
    leaves: dict[str, Tensor] = {}
    if weight in module.tensors:
        leaf = "param_delta" if target.kind == "parameter" else "weight_delta"
        leaves[leaf] = reshape(module.tensors[weight], target.shape)
    if bias in module.tensors:
        leaves["bias_delta"] = bias_delta(module, bias, target)
    return Lowered(leaves)


FAMILY = Family(
    "full", "full difference", Slots.of(has_any="diff diff_b", may="alpha"), check, differ,
    spell("lycoris", diff=".diff", diff_b=".diff_b"), lower=lower,
)  # fmt: skip
