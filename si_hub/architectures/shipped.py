"""The base models that are shipped: their tables, read when they are asked for."""

from __future__ import annotations

import json
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from si_hub.architectures.bases import BASES, USUAL, find_base, find_begun, find_released
from si_hub.architectures.model import Architecture, Model, load_modules
from si_hub.errors import UsageError
from si_hub.words import list_call

_TABLES = Path(__file__).with_name("tables")


def names() -> tuple[str, ...]:
    """The shipped base models."""
    return tuple(base.name for base in BASES)


@cache
def load(name: str) -> Architecture:
    """A shipped base model by name or alias, or by a repository of the Hub that is a release of it.

    Raises:
        UsageError: no such name, or one that several begin with.
    """
    released = find_released(name)
    if base := find_base(name) or (released[0] if len(released) == 1 else None):
        components = {attribute: load_model(part.table) for attribute, part in base.components.items()}
        return Architecture(base.name, components, base.prediction_type, base.aliases)
    if len(several := released or find_begun(name)) > 1:
        meant = " or ".join(base.name for base in several)
        raise UsageError(f"several base models are called {name!r}", expected=meant, hint="Say which one.")
    raise UsageError(f"no base model is called {name!r}", hint=f"{_hint_at_nearest(name)} {list_usual()}")


def _hint_at_nearest(name: str) -> str:
    known = {alias: base.name for base in BASES for alias in (base.name, *base.aliases)}
    if "/" in name:
        known |= {repo_id.lower(): base.name for base in BASES for repo_id in base.repositories}
    near = dict.fromkeys(known[alias] for alias in get_close_matches(name.lower(), known, 5))
    return f"Nearest is {' or '.join(near)}." if near else "A diffusers folder or a checkpoint file is one too."


def list_usual() -> str:
    """The names that most adapters are for, and what lists all of them."""
    everything = list_call("convert", "si_hub.architectures.names()")
    return f"The usual ones are {', '.join(USUAL)}; {everything} lists all {len(BASES)}."


@cache
def load_model(table: str) -> Model:
    """One component of a shipped base model, by the name of its table."""
    data = json.loads((_TABLES / f"{table}.json").read_text(encoding="utf-8"))
    return Model(data["class_name"], load_modules(data["modules"]))
