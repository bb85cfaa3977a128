"""StyleInject as PEFT saves it: branches, router and bias under ``styleinject_layer``, the rest in the configuration.

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
from si_hub.errors import FormatError, UnsupportedFamily

_LAYER = ".styleinject_layer."
#: Slot → leaf of the format.
_LEAVES = {"si_router": "router.weight", "si_router_bias": "router.bias", "si_bias": "bias_delta"}


def check(module: SourceModule, target: Target) -> None:
    """Raise where branches ``[n * r, in, *kernel]`` and ``[out, r]`` do not multiply or are not for the base module."""
    down, up = module.tensors["si_down"].shape, module.tensors["si_up"].shape
    if len(down) < 2 or len(up) < 2 or not up[1] or down[0] % up[1] or math.prod(up[2:]) != 1:
        raise unequal_factors(module, "si_down", "si_up")
    check_matrix(module, target, ("si_up", up[0]), ("si_down", math.prod(down[1:])))
    bias = module.tensors.get("si_bias")
    # It may stand where the base has no bias: it is added to the output.
    if bias is not None and bias.count != target.shape[0]:
        raise misfit(module, "si_bias", "output", target.shape[0], list(bias.shape), target)


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
    down, up = module.tensors["si_down"], module.tensors["si_up"]
    leaves = {
        "down.weight": down.reshape(down.shape[0], down.shape[1], *target.shape[2:]),
        "up.weight": up.reshape(*up.shape[:2]),
    }
    leaves |= {leaf: module.tensors[slot] for slot, leaf in _LEAVES.items() if slot in module.tensors}
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
    Slots.of("si_down si_up", may="si_router si_router_bias si_bias"), check, differ,
    spell("peft", si_down=f"{_LAYER}down.weight", si_up=f"{_LAYER}up.weight", si_router=f"{_LAYER}router.weight",
          si_router_bias=f"{_LAYER}router.bias", si_bias=f"{_LAYER}bias_delta.weight"),
    lower=lower,
)  # fmt: skip


def read_branches(configs: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Names of the branches, where the configurations say them all alike."""
    said = {tuple(config["branches"]) for config in configs.values() if isinstance(config.get("branches"), list)}
    (names,) = said if len(said) == 1 else ((),)
    return tuple(name for name in names if isinstance(name, str))
