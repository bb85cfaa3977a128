"""Writes the shipped tables: ``python -m si_hub.architectures.generate`` after installing diffusers and transformers.

Models are built on torch's meta device from the bases' own configurations, so nothing is downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from si_hub.architectures.bases import BASES, Blueprint
from si_hub.architectures.folder import frozen_path
from si_hub.architectures.model import dump_modules, modules_from_shapes
from si_hub.architectures.shipped import load_model
from si_hub.architectures.sketch import SKETCHES, Footprint, sketch_model

TABLES = Path(__file__).parent / "tables"

#: table → how the model is built whose modules it lists.
MODELS: dict[str, Blueprint] = {part.table: part for base in BASES for part in base.components.values()}


def shapes_on_meta(library: str, class_name: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the state dict of a model that is never given memory."""
    import torch

    kind = getattr(import_module(library), class_name)
    with torch.device("meta"):
        model = kind(**config) if library == "diffusers" else kind(kind.config_class(**config))
    return {frozen_path(name, class_name): tuple(value.shape) for name, value in model.state_dict().items()}


def write_tables() -> None:
    """Write the table of every component, delete those of none, and write the sketches of all."""
    TABLES.mkdir(exist_ok=True)
    for file in TABLES.glob("*.json"):
        if file.stem not in MODELS:
            file.unlink()
    for name, part in MODELS.items():
        shapes = shapes_on_meta(part.library, part.class_name, part.config)
        table = {"class_name": part.class_name, "modules": dump_modules(modules_from_shapes(shapes))}
        (TABLES / f"{name}.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8", newline="\n")
    write_sketches()


def write_sketches() -> None:
    """Write what the names of every table look like; the tables are there."""
    held: dict[str, dict[str, list[Footprint]]] = {}
    for name in sorted(MODELS):
        sketches = sketch_model(load_model(name))
        held[name] = {sketch: sorted(sketches[sketch]) for sketch in sorted(sketches)}
    lines = (f"{json.dumps(name)}: {json.dumps(sketches)}" for name, sketches in held.items())
    SKETCHES.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write_tables()
