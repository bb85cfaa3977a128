"""(IA)³ of LyCORIS: ΔW = W scaled along its input axis where ``on_input`` says so, else along its output axis."""

from __future__ import annotations

from si_hub.converters.dense import BaseModule, Difference, as_double
from si_hub.converters.families.contract import Family, Lowered, Slots, SourceModule, Target
from si_hub.converters.families.shapes import along, misfit
from si_hub.converters.naming.suffixes import spell
from si_hub.converters.numbers import number
from si_hub.errors import FormatError
from si_hub.storage.tensors import Tensor


def check(module: SourceModule, target: Target) -> None:
    """Raise BaseMismatch where the scales are neither for the inputs nor for the outputs of the base module."""
    if module.tensors["ia3_weight"].count not in target.shape[:2]:
        raise misfit(
            module, "ia3_weight", "scale's", " or ".join(map(str, target.shape[:2])),
            list(module.tensors["ia3_weight"].shape), target,
        )  # fmt: skip


def _axis(module: SourceModule) -> int:
    """0 for outputs, 1 for inputs, as ``on_input`` says.

    Raises:
        FormatError: it is no number.
    """
    try:
        return int(bool(number(module.tensors["on_input"])))
    except ValueError as error:
        raise FormatError(str(error), file=module.file, key=module.names["on_input"]) from error


def _check_axis(module: SourceModule, target: Target) -> int:
    """`_axis`; BaseMismatch where the scales are not for that axis."""
    axis, found = _axis(module), module.tensors["ia3_weight"].count
    if target.shape[axis] != found:
        raise misfit(module, "ia3_weight", "input" if axis else "output", target.shape[axis], found, target)
    return axis


def differ(module: SourceModule, target: Target, own: BaseModule | None) -> Difference:
    """The base's weight times the scales; its bias stays."""
    axis = _check_axis(module, target)
    assert own is not None, "it is a function of the base's weight"
    return Difference(lambda: own.weight() * along(as_double(module.tensors["ia3_weight"]), axis, len(target.shape)))


def lower(module: SourceModule, target: Target, own: BaseModule | None) -> Lowered:
    """1 + w as ``gain`` or ``gain_in``; since ``gain`` acts on the bias too, ``bias_delta`` takes that back."""
    axis, scales = _check_axis(module, target), module.tensors["ia3_weight"]
    leaf = "gain_in" if axis else "gain"
    leaves = {leaf: Tensor.compute((scales.count,), lambda: 1 + as_double(scales).flatten())}
    if target.bias and not axis:
        assert own is not None, "a bias is needed to take it back"
        leaves["bias_delta"] = Tensor.compute(target.shape[:1], lambda: -own.bias() * as_double(scales).flatten())
    return Lowered(leaves)


def needs_base(module: SourceModule, target: Target) -> bool:
    """Only the bias of a module that is scaled on its outputs is needed."""
    return target.bias and _axis(module) == 0


FAMILY = Family(
    "ia3-lycoris", "(IA)³ of LyCORIS", Slots.of("ia3_weight on_input"), check, differ,
    spell("lycoris", ia3_weight=".weight", on_input=".on_input"), lower=lower, needs_base=needs_base,
)  # fmt: skip
