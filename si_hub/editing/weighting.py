"""Weights of an adapter by component, block or module, as `set_styleinject_adapters` has them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from si_hub.adapter import Adapter
from si_hub.errors import UsageError

#: What a UNet's blocks are called for short.
_BLOCKS = {"down": "down_blocks", "mid": "mid_block", "up": "up_blocks"}


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One number, or numbers by path.

    Attributes:
        whole: of what no path covers.
        table: by ``component`` or ``component.module path``, whole segments; the longest that covers a layer counts.
    """

    whole: float = 1.0
    table: Mapping[str, float] | None = None

    def of(self, component: str, path: str) -> float:
        """The weight of a layer."""
        key = f"{component}.{path}"
        while key and key not in (self.table or {}):
            key = key.rpartition(".")[0]
        return self.table[key] if self.table and key else self.whole

    def as_data(self) -> float | dict[str, float]:
        """As JSON data."""
        return self.whole if self.table is None else dict(self.table)

    def as_text(self) -> str:
        """For people; empty for weight 1."""
        if self.table is None:
            return "" if self.whole == 1 else f", weight {self.whole:g}"
        return ", weights " + ", ".join(f"{key} {weight:g}" for key, weight in self.table.items())


def read_weights(given: Any, file: Path) -> LayerWeights:
    """A number, ``None`` for 1, or a table by component, and in it by block or module path.

    Raises:
        UsageError: something else, or a number that is not finite.
    """
    if given is None or isinstance(given, Real):
        return LayerWeights(_finite(1.0 if given is None else given, "weight", file))
    if not isinstance(given, Mapping):
        raise UsageError("a weight is a number or a table", file=file, found=repr(given))
    return LayerWeights(table=dict(_flatten(given, (), file)))


def _flatten(table: Mapping[Any, Any], above: tuple[str, ...], file: Path) -> Iterator[tuple[str, float]]:
    for key, value in table.items():
        path = (*above, *str(key).split("."))
        if isinstance(value, Mapping):
            yield from _flatten(value, path, file)
        else:
            yield _spell_out(path), _finite(value, ".".join(path), file)


def _spell_out(path: tuple[str, ...]) -> str:
    """``unet.down.block_1`` → ``unet.down_blocks.1``."""
    component, *rest = path
    if rest and rest[0] in _BLOCKS:
        rest[0] = _BLOCKS[rest[0]]
        rest[1:2] = [segment.removeprefix("block_") for segment in rest[1:2]]
    return ".".join([component, *rest])


def _finite(value: Any, key: str, file: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise UsageError("a weight is a finite number", file=file, key=key, found=repr(value))
    return float(value)


def check_weights(weights: LayerWeights, adapter: Adapter, file: Path) -> None:
    """Raise UsageError where a path covers none of the adapter's layers."""
    known = {
        ".".join(segments[:count])
        for name, component in adapter.components.items() for path in component.layers
        for segments in [[name, *path.split(".")]] for count in range(1, len(segments) + 1)
    }  # fmt: skip
    for key in weights.table or ():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise UsageError(
                "covers no layer of the adapter", file=file, key=key,
                expected=f"such as {', '.join(adapter.components)}",
                hint=f"Did you mean {near[0]}?" if near else None,
            )  # fmt: skip
