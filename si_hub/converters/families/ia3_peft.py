"""(IA)³ of PEFT (arXiv 2205.05638): W scaled by l, [out, 1] for outputs, [1, in] for the inputs of feed-forwards."""

from __future__ import annotations

from collections.abc import Collection

from si_hub.converters.dense import BaseModule, Difference, as_double
from si_hub.converters.families.contract import Family, Lowered, Slots, SourceModule, Target
from si_hub.converters.families.shapes import along, misfit
from si_hub.converters.naming.suffixes import spell
from si_hub.errors import UnsupportedFamily


def check(module: SourceModule, target: Target) -> None:
    """Raise BaseMismatch where the scales are neither for the inputs nor for the outputs of the base module."""
    scales = module.tensors["ia3"]
    if scales.count not in target.shape[:2] or scales.count != max(scales.shape, default=0):
        raise misfit(module, "ia3", "scale's", " or ".join(map(str, target.shape[:2])), list(scales.shape), target)


def _axis(module: SourceModule, target: Target) -> int:
    """0 for outputs, 1 for the inputs of a feed-forward: by shape, and where that says nothing, by the configuration.

    Raises:
        UnsupportedFamily: neither says it.
    """
    shape = module.tensors["ia3"].shape
    if len(shape) == 2 and shape[0] != shape[1]:
        axis = 0 if shape[1] == 1 else 1
        if target.shape[axis] != module.tensors["ia3"].count:
            found = module.tensors["ia3"].count
            raise misfit(module, "ia3", "input" if axis else "output", target.shape[axis], found, target)
        return axis
    fitting = [axis for axis in (0, 1) if target.shape[axis] == module.tensors["ia3"].count]
    if len(fitting) == 1:
        return fitting[0]
    feedforward = (module.config or {}).get("feedforward_modules")
    if isinstance(feedforward, Collection) and not isinstance(feedforward, str):
        path = module.reading.body
        return int(any(path == name or path.endswith(f".{name}") for name in feedforward))
    raise UnsupportedFamily(
        "(IA)³ of PEFT, whose configuration is needed to tell inputs from outputs", file=module.file,
        key=module.names["ia3"], expected="feedforward_modules in adapter_config.json", found=feedforward,
        hint="Keep adapter_config.json beside it.",
    )  # fmt: skip


def differ(module: SourceModule, target: Target, own: BaseModule | None) -> Difference:
    """The base's weight times l - 1, and its bias too where the outputs are scaled."""
    axis, scales = _axis(module, target), module.tensors["ia3"]
    assert own is not None, "it is a function of the base's weight"
    bias = (lambda: own.bias() * (as_double(scales).flatten() - 1)) if target.bias and not axis else None
    return Difference(lambda: own.weight() * along(as_double(scales) - 1, axis, len(target.shape)), bias)


def lower(module: SourceModule, target: Target, own: BaseModule | None) -> Lowered:
    """l as ``gain``, which acts on the bias as PEFT's does, or as ``gain_in``."""
    scales = module.tensors["ia3"]
    return Lowered({"gain_in" if _axis(module, target) else "gain": scales.reshape(scales.count)})


FAMILY = Family(
    "ia3-peft", "(IA)³ of PEFT", Slots.of("ia3"), check, differ, spell("peft", named=True, ia3=".ia3_l"), lower=lower,
)  # fmt: skip
