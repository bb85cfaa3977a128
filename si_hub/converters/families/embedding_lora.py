"""LoRA of an embedding, of PEFT: A [rank, tokens], B [dim, rank]."""

from __future__ import annotations

from si_hub.converters.families.contract import NOT_YET, Family, Slots, SourceModule, Target
from si_hub.converters.families.shapes import check_matrix, size_of
from si_hub.converters.naming.suffixes import spell


def check(module: SourceModule, target: Target) -> None:
    """Raise BaseMismatch where A and B are not for the base's table ``[tokens, dim]``."""
    tokens, width = size_of(module, "embedding_down", 1), size_of(module, "embedding_up", 0)
    check_matrix(module, target, tokens, width)


FAMILY = Family(
    "embedding-lora", "LoRA of an embedding", Slots.of("embedding_down embedding_up", may="alpha"), check,
    spell("peft", named=True, embedding_down=".lora_embedding_A", embedding_up=".lora_embedding_B"), reason=NOT_YET,
)  # fmt: skip
