"""What the names of a base model look like, without unfolding its tables: which of many it can be, in milliseconds."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache

from si_hub.architectures.bases import BASES
from si_hub.architectures.bases.contract import Base
from si_hub.architectures.layouts.registry import LAYOUTS
from si_hub.architectures.model import Model, load_modules
from si_hub.architectures.shipped import load_model, read_table

_NUMBER = re.compile(r"(?<![^_])[0-9]+(?![^_])")
_BRACES = re.compile(r"\{([0-9]+)[0-9,-]*\}")


def sketch_name(name: str) -> str:
    """A module's name with ``#`` for its numbers and underscores for dots: ``down_blocks_#_resnets_#_conv1``."""
    return _NUMBER.sub("#", name.replace(".", "_"))


@cache
def sketch_table(table: str) -> frozenset[str]:
    """Sketches of all the names that any layout gives the modules of a shipped table."""
    data = read_table(table)
    # One module for each pattern is enough for layouts that keep the numbers of a name as they are.
    few = {key: [_BRACES.sub(r"\1", pattern) for pattern in patterns] for key, patterns in data["modules"].items()}
    model = Model(data["class_name"], load_modules(few))
    return frozenset(
        sketch_name(name)
        for layout in LAYOUTS.values()
        for name in layout(load_model(table) if layout.renumbers else model)
    )


def likely_bases(sketches: Collection[str]) -> list[Base]:
    """The base models that know most of these sketched names, the most of all first; none that knows not one."""
    hits = {base.name: len(_sketches(base.name) & set(sketches)) for base in BASES}
    return sorted((base for base in BASES if hits[base.name]), key=lambda base: -hits[base.name])


def knows_all(base: Base, sketches: Collection[str]) -> bool:
    """Whether a base model has names like all of these."""
    return _sketches(base.name).issuperset(sketches)


@cache
def _sketches(name: str) -> frozenset[str]:
    base = next(base for base in BASES if base.name == name)
    return frozenset().union(*(sketch_table(part.table) for part in base.components.values()))
