"""The base models that are shipped: their tables, read when they are asked for."""

from __future__ import annotations

import json
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from si_hub.architectures.bases import BASES, find_base, find_begun
from si_hub.architectures.model import Architecture, Model, load_modules
from si_hub.errors import UsageError

_TABLES = Path(__file__).with_name("tables")


def names() -> tuple[str, ...]:
    """The shipped base models."""
    return tuple(base.name for base in BASES)


@cache
def load(name: str) -> Architecture:
    """A shipped base model by name or alias.

    Raises:
        UsageError: no such name, or one that several begin with.
    """
    if base := find_base(name):
        components = {attribute: load_model(part.table) for attribute, part in base.components.items()}
        return Architecture(base.name, components, base.prediction_type, base.aliases)
    if len(several := find_begun(name)) > 1:
        meant = " or ".join(base.name for base in several)
        raise UsageError(f"several base models are called {name!r}", expected=meant, hint="Say which one.")
    known = {alias: base.name for base in BASES for alias in (base.name, *base.aliases)}
    near = dict.fromkeys(known[alias] for alias in get_close_matches(name.lower(), known, 5))
    raise UsageError(
        f"no base model is called {name!r}", expected=", ".join(names()),
        hint=f"Nearest is {' or '.join(near)}." if near else "A diffusers folder or a checkpoint file is one too.",
    )  # fmt: skip


@cache
def load_model(table: str) -> Model:
    """One component of a shipped base model, by the name of its table."""
    data = json.loads((_TABLES / f"{table}.json").read_text(encoding="utf-8"))
    return Model(data["class_name"], load_modules(data["modules"]))
