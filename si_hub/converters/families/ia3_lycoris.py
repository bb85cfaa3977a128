"""(IA)³ of LyCORIS: ΔW = W scaled along its input axis where ``on_input`` says so, else along its output axis."""

from __future__ import annotations

from si_hub.converters.dense import BaseModule, Difference, widen
from si_hub.converters.families.contract import Family, Lowered, Slots, SourceModule, Target
from si_hub.converters.families.shapes import along, misfit
from si_hub.converters.naming.suffixes import spell
from si_hub.converters.numbers import number
from si_hub.errors import BaseMismatch
from si_hub.storage.tensors import Tensor


def check(module: SourceModule, target: Target) -> None:
    """Raise BaseMismatch where the scales are neither for the inputs nor for the outputs of the base module."""
    if module.tensors["ia3_weight"].count not in target.shape[:2]:
        raise misfit(
            module, "ia3_weight", "scale's", " or ".join(map(str, target.shape[:2])),
            list(module.tensors["ia3_weight"].shape), target,
        )  # fmt: skip


def _axis(module: SourceModule, target: Target) -> int:
    """0 for outputs, 1 for inputs, as ``on_input`` says.

    Raises:
        BaseMismatch: the scales are not for that axis.
    """
    try:
        axis = int(bool(number(module.tensors["on_input"])))
    except ValueError as error:
        raise BaseMismatch(str(error), file=module.file, key=module.names["on_input"]) from error
    if target.shape[axis] != (found := module.tensors["ia3_weight"].count):
        raise misfit(module, "ia3_weight", "input" if axis else "output", target.shape[axis], found, target)
    return axis


def differ(module: SourceModule, target: Target, own: BaseModule | None) -> Difference:
    """The base's weight times the scales; its bias stays."""
    axis = _axis(module, target)
    assert own is not None, "it is a function of the base's weight"
    return Difference(lambda: own.weight() * along(widen(module.tensors["ia3_weight"]), axis, len(target.shape)))


def lower(module: SourceModule, target: Target, own: BaseModule | None) -> Lowered:
    """1 + w as ``gain`` or ``gain_in``; since ``gain`` acts on the bias too, ``bias_delta`` takes that back."""
    axis, scales = _axis(module, target), module.tensors["ia3_weight"]
    leaf = "gain_in" if axis else "gain"
    leaves = {leaf: Tensor.compute((scales.count,), lambda: 1 + widen(scales).flatten())}
    if target.bias and not axis:
        assert own is not None, "a bias is needed to take it back"
        leaves["bias_delta"] = Tensor.compute(target.shape[:1], lambda: -own.bias() * widen(scales).flatten())
    return Lowered(leaves)


def needs_base(module: SourceModule, target: Target) -> bool:
    """Only the bias of a module that is scaled on its outputs is needed."""
    return target.bias and _axis(module, target) == 0


FAMILY = Family(
    "ia3-lycoris", "(IA)³ of LyCORIS", Slots.of("ia3_weight on_input"), check, differ,
    spell("lycoris", ia3_weight=".weight", on_input=".on_input"), lower=lower, needs_base=needs_base,
)  # fmt: skip
