"""LoRA of several experts: one down, many ups and a router that chooses among them by what the layer computes.

ΔW = alpha / rank · Σ gᵢ upᵢ · down with gates g that are a softmax, so they add up to 1. No change of a weight depends
on inputs: it is exact where the gates do not matter, or do not depend on them. One expert, ups that are all the same,
or a router of this layer whose weight is 0, so that its gates are those of its bias.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from si_hub.converters.dense import BaseModule, Difference, as_double
from si_hub.converters.families import lora
from si_hub.converters.families.contract import Family, Lowered, Slots, SourceModule, Target
from si_hub.converters.families.shapes import check_pair, unequal_factors
from si_hub.converters.naming.suffixes import Suffix, spell
from si_hub.converters.numbers import are_equal
from si_hub.errors import LayerShapeError, UnsupportedFamily
from si_hub.storage.tensors import Tensor

if TYPE_CHECKING:
    import torch

#: Experts of a file, at most; the trainer's own choices end far below.
_MOST = 32
_UPS = tuple(f"ups_{at}" for at in range(_MOST))


def _ups(module: SourceModule) -> list[Tensor]:
    return [module.tensors[slot] for slot in _UPS if slot in module.tensors]


def check(module: SourceModule, target: Target) -> None:
    """Raise where down or any up is not for the base module.

    Raises:
        LayerShapeError: ups or a router that contradict each other.
        BaseMismatch: they do not fit.
    """
    ups = _ups(module)
    held = [slot for slot in _UPS if slot in module.tensors]
    if held != list(_UPS[: len(held)]) or any(up.shape != ups[0].shape for up in ups):
        raise LayerShapeError(
            "its experts are not numbered from 0, or not of one shape", file=module.file, key=module.stem,
            found=", ".join(f"{slot} {list(module.tensors[slot].shape)}" for slot in held),
        )  # fmt: skip
    for slot in {"router", "router_bias"} & module.tensors.keys():
        if module.tensors[slot].shape[:1] != (len(ups),):
            raise unequal_factors(module, "ups_0", slot)
    check_pair(_with(module, ups[0]), target)


def _with(module: SourceModule, up: Tensor) -> SourceModule:
    """The module as one plain pair."""
    tensors = {"down": module.tensors["down"], "up": up}
    names = {"down": module.names["down"], "up": module.names["ups_0"]}
    return SourceModule(module.stem, module.file, module.reading, tensors, names, module.spelling, module.alpha)


def routed_rank(module: SourceModule) -> int:
    """The rank that every expert has."""
    return module.tensors["down"].shape[0]


def _merge(module: SourceModule) -> Tensor:
    """The one up that all experts are.

    Raises:
        UnsupportedFamily: which of them acts depends on the layer's inputs, or on what the file does not say.
    """
    ups = _ups(module)
    if "inv_scale" in module.tensors:
        raise _refuse(module, "it scales the layer's inputs before its router reads them")
    if all(are_equal(up, ups[0]) for up in ups[1:]):
        return ups[0]
    router = module.tensors.get("router")
    if router is None:
        raise _refuse(module, "its experts differ, and the file says of no router of this layer")
    if bool(as_double(router).any()):
        raise _refuse(module, "its experts differ, and a router chooses among them by the layer's inputs")

    def mix() -> torch.Tensor:
        import torch

        bias = module.tensors.get("router_bias")
        logits = torch.zeros(len(ups), dtype=torch.float64) if bias is None else as_double(bias).flatten()
        gates = torch.softmax(logits, 0)
        total = torch.zeros(ups[0].shape, dtype=torch.float64)
        for gate, up in zip(gates, ups, strict=True):
            total += gate * as_double(up)
        return total

    return Tensor.compute(ups[0].shape, mix)


def _refuse(module: SourceModule, why: str) -> UnsupportedFamily:
    return UnsupportedFamily(
        f"is a LoRA of {len(_ups(module))} experts, and {why}, which no change of a weight does", file=module.file,
        key=module.stem, expected="one expert, equal ones, or a router of weight 0",
    )  # fmt: skip


def differ(module: SourceModule, target: Target, own: BaseModule | None = None) -> Difference:
    """The gates' mixture of ups, times down, scaled."""
    ups = _ups(module)
    _merge(module)
    router_bias = module.tensors.get("router_bias")

    def multiply() -> torch.Tensor:
        import torch

        logits = torch.zeros(len(ups), dtype=torch.float64) if router_bias is None else as_double(router_bias)
        products = torch.stack([lora.multiply_pair(_with(module, up), target) for up in ups])
        mixed: torch.Tensor = torch.tensordot(torch.softmax(logits.flatten(), 0), products, 1)
        return mixed

    return Difference(multiply)


def lower(module: SourceModule, target: Target, own: BaseModule | None = None) -> Lowered:
    """A pair: down's bytes as they are, and an up that is the experts' own or their mixture."""
    return lora.lower(_with(module, _merge(module)), target)


FAMILY = Family(
    "routed-lora", "LoRA of several experts",
    Slots.of("down ups_0", may=f"alpha router router_bias inv_scale {' '.join(_UPS)}"), check, differ,
    {f".lora_ups.{at}.weight": Suffix(slot, "routed", named=False) for at, slot in enumerate(_UPS)}
    | spell("routed", router=".router.weight", router_bias=".router.bias", inv_scale=".inv_scale"),
    rank=routed_rank, lower=lower,
)  # fmt: skip
