"""Layers counted by what people ask about: rank and alpha."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from si_hub.adapter import Layer


def count_ranks(layers: Iterable[Layer]) -> dict[int, int]:
    """Number of layers by rank, the most frequent first; 0 are layers without a low-rank pair."""
    return dict(Counter(layer.rank for layer in layers).most_common())


def count_alphas(layers: Iterable[Layer]) -> dict[str, int]:
    """Number of layers with a low-rank pair by alpha, the most frequent first; ``rank`` where alpha is the rank."""
    alphas = ("rank" if layer.alpha is None else f"{layer.alpha:g}" for layer in layers if layer.rank)
    return dict(Counter(alphas).most_common())
