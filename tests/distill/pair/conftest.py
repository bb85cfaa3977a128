"""Tuned models that differ from the base in what a test says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from si_hub.distill.pair.opening import open_model
from tests.distill.checkpoints import write
from tests.miniature import BASE, NEON

UNET = "model.diffusion_model."


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """The base's own weights as a single file, with some of them replaced."""

    def build(dtype: torch.dtype = torch.float16, **tensors: torch.Tensor) -> Path:
        held = load_file(NEON)
        base, tuned = open_model(BASE), open_model(NEON, base=open_model(BASE))
        for component, table in tuned.components.items():
            for name, weight in table.items():
                [source] = weight.sources
                held[source] = base.components[component][name].torch().to(dtype)
        for name, value in tensors.items():
            held[UNET + name] = value
        return write(tmp_path / "tuned.safetensors", held)

    return build
