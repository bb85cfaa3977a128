"""What the names of a base model look like, without unfolding its tables: which of many it can be, in milliseconds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from si_hub.architectures.bases import BASES
from si_hub.architectures.bases.contract import Base
from si_hub.architectures.model import Model, load_modules
from si_hub.architectures.namings import LAYOUTS
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


def likely_bases(sketches: Mapping[str, int]) -> list[tuple[Base, int]]:
    """The base models that know any of these sketched names, the most of all first, and how many they know.

    Args:
        sketches: sketched name → how many names look so.
    """
    known = ((base, sum(sketches[name] for name in _sketches(base.name) & sketches.keys())) for base in BASES)
    return sorted(((base, count) for base, count in known if count), key=lambda entry: -entry[1])


@cache
def _sketches(name: str) -> frozenset[str]:
    base = next(base for base in BASES if base.name == name)
    return frozenset().union(*(sketch_table(part.table) for part in base.components.values()))
