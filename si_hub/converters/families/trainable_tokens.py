"""Trainable tokens, of PEFT: rows of an embedding replaced by trained ones; the configuration says which rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from si_hub.converters.dense import BaseModule, Difference, as_double
from si_hub.converters.families.contract import Family, Slots, SourceModule, Target, always
from si_hub.converters.families.shapes import check_matrix, size_of
from si_hub.converters.naming.suffixes import spell
from si_hub.errors import UnsupportedFamily

if TYPE_CHECKING:
    import torch


def check(module: SourceModule, target: Target) -> None:
    """Raise BaseMismatch where the rows are not as long as the base's."""
    check_matrix(module, target, None, size_of(module, "tokens", 1))


def _rows(module: SourceModule, target: Target) -> list[int]:
    """Which rows are replaced, as many as there are in the file.

    Raises:
        UnsupportedFamily: the configuration does not say it.
    """
    settings = module.config or {}
    said: Any = settings.get("token_indices") or settings.get("trainable_token_indices")
    if isinstance(said, dict):
        path = f".{module.reading.body}"
        said = next((value for name, value in said.items() if path.endswith(f".{name}")), None)
    count = module.tensors["tokens"].shape[0]
    usable = isinstance(said, list) and all(type(row) is int and 0 <= row < target.shape[0] for row in said)
    if not usable or len(set(said)) != count:
        raise UnsupportedFamily(
            "trained rows of an embedding, whose places are in the configuration", file=module.file, key=module.stem,
            expected=f"token_indices in adapter_config.json, {count} of them below {target.shape[0]}", found=said,
            hint="Keep adapter_config.json beside it.",
        )  # fmt: skip
    rows: list[int] = said
    return rows


def differ(module: SourceModule, target: Target, own: BaseModule | None) -> Difference:
    """The rows less the base's, and nothing elsewhere."""
    assert own is not None, "it is a function of the base's weight"
    rows = _rows(module, target)

    def replace() -> torch.Tensor:
        import torch

        weight = own.weight()
        change = torch.zeros_like(weight)
        change[rows] = as_double(module.tensors["tokens"]) - weight[rows]
        return change

    return Difference(replace)


FAMILY = Family(
    "trainable-tokens", "trainable tokens", Slots.of("tokens"), check, differ,
    spell("peft", tokens=".trainable_tokens_delta .token_adapter.trainable_tokens_delta"), needs_base=always,
)  # fmt: skip
