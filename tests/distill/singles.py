"""Pipelines of folders as single files under original names, for tests that distill without a folder."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from si_hub.distill import open_model
from tests.distill.checkpoints import Shape, write
from tests.miniature import BASE, INK


def miniature_file(path: Path, leave_out: str = "none") -> Path:
    """The miniature's base, float32, under the names that its tuned checkpoints have.

    Args:
        path: of the file.
        leave_out: beginning of names that the file lacks.
    """
    held, base = load_file(INK), open_model(BASE)
    tuned = open_model(INK, base=base)
    found: dict[str, torch.Tensor | Shape] = {}
    for component, table in (*tuned.components.items(), ("vae", tuned.vae)):
        weights = base.vae if component == "vae" else base.components[component]
        for name, weight in table.items():
            [source] = weight.sources
            if not source.startswith(leave_out):
                found[source] = weights[name].torch().float().reshape(held[source].shape)
    return write(path, found)
