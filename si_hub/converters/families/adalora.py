"""AdaLoRA, of PEFT: ΔW = alpha / r · B (E ⊙ A), with E [rank, 1] and r the rank that training began with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from si_hub.converters.dense import BaseModule, Difference, as_double
from si_hub.converters.families.contract import Family, Lowered, Slots, SourceModule, Target
from si_hub.converters.families.shapes import check_matrix, size_of, unequal_factors
from si_hub.converters.naming.suffixes import spell
from si_hub.errors import UnsupportedFamily
from si_hub.storage.tensors import Tensor

if TYPE_CHECKING:
    import torch


def check(module: SourceModule, target: Target) -> None:
    """Raise where B ``[out, rank]``, E and A ``[rank, in · kernel]`` are not for the base module.

    Raises:
        LayerShapeError: they do not multiply.
        BaseMismatch: they do not fit.
    """
    down, up = module.tensors["down"].shape, module.tensors["up"].shape
    if len(down) != 2 or len(up) != 2 or down[0] != up[1]:
        raise unequal_factors(module, "down", "up")
    if module.tensors["singular"].count != down[0]:
        raise unequal_factors(module, "down", "singular")
    check_matrix(module, target, size_of(module, "up", 0), size_of(module, "down", 1))


def _scale(module: SourceModule) -> float:
    """alpha / r as PEFT computes it, with its guard against a rank of 0.

    Raises:
        UnsupportedFamily: no configuration says them.
    """
    settings = module.config or {}
    rank, alpha = settings.get("init_r", 12), settings.get("lora_alpha", 8)
    if str(settings.get("peft_type", "")).upper() != "ADALORA" or not all(
        isinstance(one, (int, float)) and 0 <= one < 1e9 for one in (rank, alpha)
    ):
        raise UnsupportedFamily(
            "AdaLoRA, whose scale is in its configuration", file=module.file, key=module.stem,
            expected="init_r and lora_alpha in adapter_config.json",
            found=f"{rank} and {alpha}" if settings else "no configuration",
            hint="Keep adapter_config.json beside it.",
        )  # fmt: skip
    return float((alpha or rank) / (rank + 1e-5))


def differ(module: SourceModule, target: Target, own: BaseModule | None = None) -> Difference:
    """The product, scaled."""
    scale = _scale(module)

    def multiply() -> torch.Tensor:
        singular = as_double(module.tensors["singular"]).reshape(-1, 1)
        product = as_double(module.tensors["up"]) @ (singular * as_double(module.tensors["down"]))
        return (product * scale).reshape(target.shape)

    return Difference(multiply)


def lower(module: SourceModule, target: Target, own: BaseModule | None = None) -> Lowered:
    """B's bytes as they are; E and the scale go into A."""
    scale, down = _scale(module), (module.tensors["down"].shape[0], *target.shape[1:])

    def scale_rows() -> torch.Tensor:
        singular = as_double(module.tensors["singular"]).reshape(-1, 1)
        return (scale * singular * as_double(module.tensors["down"])).reshape(down)

    return Lowered({"down.weight": Tensor.compute(down, scale_rows), "up.weight": module.tensors["up"]})


FAMILY = Family(
    "adalora-peft", "AdaLoRA", Slots.of("down up singular"), check, differ,
    spell("peft", named=True, singular=".lora_E"), lower=lower,
)  # fmt: skip
