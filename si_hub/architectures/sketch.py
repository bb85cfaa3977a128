"""What the names of a base model look like, without unfolding its tables: which of many it can be, in milliseconds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

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


def sketch_model(model: Model) -> set[str]:
    """Sketches of all the names that any layout gives a model's modules."""
    return {sketch_name(name) for layout in LAYOUTS.values() for name in layout(model)}


def sketch_table(table: str) -> frozenset[str]:
    """The same for a shipped table, by its name."""
    return _shipped()[table]


@cache
def _shipped() -> Mapping[str, frozenset[str]]:
    held: dict[str, list[str]] = json.loads(SKETCHES.read_text(encoding="utf-8"))
    return {table: frozenset(sketches) for table, sketches in held.items()}


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
