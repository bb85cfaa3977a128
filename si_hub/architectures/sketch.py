"""What the names of a base model look like, without unfolding its tables: which of many it can be, in milliseconds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from si_hub.architectures.bases import BASES
from si_hub.architectures.bases.contract import Base
from si_hub.architectures.model import Model
from si_hub.architectures.namings import LAYOUTS

_NUMBER = re.compile(r"(?<![^_])[0-9]+(?![^_])")
#: Sketches by table, written by `si_hub.architectures.generate`.
SKETCHES = Path(__file__).with_name("sketches.json")


def sketch_name(name: str) -> str:
    """A module's name with ``#`` for its numbers and underscores for dots: ``down_blocks_#_resnets_#_conv1``."""
    return _NUMBER.sub("#", name.replace(".", "_"))


class Footprint(NamedTuple):
    """What lies under a name: a module's kind, its weight's shape (of several that are fused the sum), its bias."""

    kind: str
    shape: tuple[int, ...]
    bias: bool


def sketch_model(model: Model) -> dict[str, set[Footprint]]:
    """Sketches of all the names that any layout gives a model's modules, and what lies under names like these."""
    found: dict[str, set[Footprint]] = {}
    for layout in LAYOUTS.values():
        for name, parts in layout(model).items():
            held = [model.modules[part.path] for part in parts]
            rows = sum(module.shape[0] for module in held)
            shape = held[0].shape if len(held) == 1 else (rows, *held[0].shape[1:])
            footprint = Footprint(held[0].kind, shape, all(module.bias for module in held))
            found.setdefault(sketch_name(name), set()).add(footprint)
    return found


def sketch_table(table: str) -> Mapping[str, frozenset[Footprint]]:
    """The same for a shipped table, by its name."""
    return _shipped()[table]


@cache
def _shipped() -> Mapping[str, Mapping[str, frozenset[Footprint]]]:
    held: dict[str, dict[str, list[tuple[str, list[int], bool]]]] = json.loads(SKETCHES.read_text(encoding="utf-8"))
    return {
        table: {
            sketch: frozenset(Footprint(kind, tuple(shape), bias) for kind, shape, bias in footprints)
            for sketch, footprints in sketches.items()
        }
        for table, sketches in held.items()
    }


def find_footprints(base: Base, sketch: str) -> Iterator[Footprint]:
    """What lies under names like a sketched one in any component of a base model."""
    for part in base.components.values():
        yield from sketch_table(part.table).get(sketch, ())


def bases_knowing(sketch: str) -> tuple[Base, ...]:
    """The base models that have a name like a sketched one, in the order of their table."""
    return _knowing().get(sketch, ())


@cache
def _knowing() -> Mapping[str, tuple[Base, ...]]:
    found: dict[str, tuple[Base, ...]] = {}
    for base in BASES:
        for sketch in dict.fromkeys(name for part in base.components.values() for name in sketch_table(part.table)):
            found[sketch] = (*found.get(sketch, ()), base)
    return found
