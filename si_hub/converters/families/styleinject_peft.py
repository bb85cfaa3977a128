"""StyleInject as PEFT saves it: its leaves under ``styleinject_layer``, the rest in the configuration.

Its action may depend on the picture, so it is no difference of a weight: it is read as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args

from si_hub.adapter import Pool, Transform
from si_hub.converters.dense import BaseModule, Difference
from si_hub.converters.families.contract import Family, Lowered, Slots, SourceModule, Target
from si_hub.converters.families.scales import find_pattern
from si_hub.converters.families.shapes import check_matrix, misfit, unequal_factors
from si_hub.converters.naming.suffixes import spell
from si_hub.errors import FormatError, MissingTensor, UnsupportedFamily

_LAYER = ".styleinject_layer."
#: Slot → leaf of the format.
_LEAVES = {
    "si_router": "router.weight", "si_router_bias": "router.bias", "si_gain": "gain", "si_bias": "bias_delta",
}  # fmt: skip


def check(module: SourceModule, target: Target) -> None:
    """Raise where branches ``[n * r, in, *kernel]`` and ``[out, r]`` do not multiply or are not for the base module.

    With a core ``[n * r, q, *kernel]``, down is ``[q, in]``; a gain and a bias may stand alone, in norms too.
    """
    held = {slot: tensor.shape for slot, tensor in module.tensors.items()}
    if held.keys() & {"si_down", "si_core", "si_up"}:
        _check_pair(module, target)
    # The bias may stand where the base has none: it is added to the output.
    for slot in ("si_gain", "si_bias"):
        width = target.shape[-1] if target.kind == "embedding" else target.shape[0]
        if slot in held and held[slot] != (width,):
            raise misfit(module, slot, "output", width, list(held[slot]), target)


def _check_pair(module: SourceModule, target: Target) -> None:
    missing = [slot for slot in ("si_down", "si_up") if slot not in module.tensors]
    if missing:
        raise MissingTensor(
            "half of a low-rank pair is missing", file=module.file, key=f"{module.stem}{_LAYER}{missing[0][3:]}.weight"
        )
    down, up = module.tensors["si_down"].shape, module.tensors["si_up"].shape
    core = module.tensors["si_core"].shape if "si_core" in module.tensors else down
    if min(map(len, (down, up, core))) < 2 or not up[1] or core[0] % up[1] or math.prod(up[2:]) != 1:
        raise unequal_factors(module, "si_core" if "si_core" in module.tensors else "si_down", "si_up")
    if core is not down and (core[1] != down[0] or math.prod(down[2:]) != 1):
        raise unequal_factors(module, "si_down", "si_core")
    check_matrix(module, target, ("si_up", up[0]), ("si_down", down[1] * math.prod(core[2:])))


def differ(module: SourceModule, target: Target, own: BaseModule | None) -> Difference:
    """Refused: what it adds may depend on the picture."""
    raise UnsupportedFamily(
        "is StyleInject, which is no difference of a weight", file=module.file, key=module.stem,
        hint="Convert it as it is, without a check and without making it smaller.",
    )  # fmt: skip


def lower(module: SourceModule, target: Target, own: BaseModule | None) -> Lowered:
    """The same tensors as the format's leaves, bytes as they are; transform, pool and alpha of the configuration.

    Raises:
        FormatError: no configuration, or one with values that the format has not.
    """
    config = module.config or {}
    leaves = {leaf: module.tensors[slot] for slot, leaf in _LEAVES.items() if slot in module.tensors}
    if "si_down" not in module.tensors:
        return Lowered(leaves)
    down, up, core = module.tensors["si_down"], module.tensors["si_up"], module.tensors.get("si_core")
    kernel = target.shape[2:]
    if core is not None:
        leaves["core.weight"] = core.reshape(*core.shape[:2], *kernel)
    leaves |= {
        "down.weight": down.reshape(*down.shape[:2], *(kernel if core is None else [1] * len(kernel))),
        "up.weight": up.reshape(*up.shape[:2]),
    }
    alpha = find_pattern(config, "alpha_pattern", module.reading.body, config.get("alpha"))
    if alpha is not None and (isinstance(alpha, bool) or not isinstance(alpha, int | float)):
        raise _unusable(module, "alpha", "a number", alpha)
    transform: Any = _choose(module, config, "transform", get_args(Transform))
    pool: Any = _choose(module, config, "pool", get_args(Pool))
    return Lowered(leaves, None if alpha is None else float(alpha), transform=transform, pool=pool)


def _choose(module: SourceModule, config: Mapping[str, Any], name: str, known: tuple[str, ...]) -> str:
    value = config.get(name)
    if value not in known:
        raise _unusable(module, name, ", ".join(known), value)
    return str(value)


def _unusable(module: SourceModule, name: str, expected: str, value: object) -> FormatError:
    return FormatError(
        f"the adapter's configuration has no usable {name}", file=module.file, key=module.stem, expected=expected,
        found=repr(value)[:60], hint="Keep adapter_config.json beside it.",
    )  # fmt: skip


FAMILY = Family(
    "styleinject-peft", "StyleInject of PEFT",
    Slots.of(has_any="si_down si_up si_gain si_bias", may="si_core si_router si_router_bias"), check, differ,
    spell("peft", si_down=f"{_LAYER}down.weight", si_core=f"{_LAYER}core.weight", si_up=f"{_LAYER}up.weight",
          si_router=f"{_LAYER}router.weight", si_router_bias=f"{_LAYER}router.bias",
          si_gain=f"{_LAYER}gain.weight", si_bias=f"{_LAYER}bias_delta.weight"),
    lower=lower,
)  # fmt: skip


def read_branches(configs: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Names of the branches, where the configurations say them all alike."""
    said = {tuple(config["branches"]) for config in configs.values() if isinstance(config.get("branches"), list)}
    (names,) = said if len(said) == 1 else ((),)
    return tuple(name for name in names if isinstance(name, str))
