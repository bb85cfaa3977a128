"""LoRA of an embedding, of PEFT: A [rank, tokens], B [dim, rank]; ΔW = alpha / rank · (B A)ᵀ."""

from __future__ import annotations

from typing import TYPE_CHECKING

from si_hub.converters.dense import BaseModule, Difference, as_double
from si_hub.converters.families.contract import Family, Slots, SourceModule, Target, scale_of
from si_hub.converters.families.shapes import check_matrix, size_of, unequal_factors
from si_hub.converters.naming.suffixes import spell

if TYPE_CHECKING:
    import torch


def check(module: SourceModule, target: Target) -> None:
    """Raise where A and B do not multiply or are not for the base's table ``[tokens, dim]``.

    Raises:
        LayerShapeError: they do not multiply.
        BaseMismatch: they do not fit.
    """
    down, up = module.tensors["embedding_down"].shape, module.tensors["embedding_up"].shape
    if len(down) != 2 or len(up) != 2 or down[0] != up[1]:
        raise unequal_factors(module, "embedding_down", "embedding_up")
    tokens, width = size_of(module, "embedding_down", 1), size_of(module, "embedding_up", 0)
    check_matrix(module, target, tokens, width)


def embedding_rank(module: SourceModule) -> int:
    """Rows of A."""
    return module.tensors["embedding_down"].shape[0]


def differ(module: SourceModule, target: Target, own: BaseModule | None = None) -> Difference:
    """The transposed product, scaled."""

    def multiply() -> torch.Tensor:
        product = as_double(module.tensors["embedding_up"]) @ as_double(module.tensors["embedding_down"])
        return product.T * scale_of(module, embedding_rank(module))

    return Difference(multiply)


FAMILY = Family(
    "embedding-lora", "LoRA of an embedding", Slots.of("embedding_down embedding_up", may="alpha"), check, differ,
    spell("peft", named=True, embedding_down=".lora_embedding_A", embedding_up=".lora_embedding_B"),
    rank=embedding_rank,
)  # fmt: skip
