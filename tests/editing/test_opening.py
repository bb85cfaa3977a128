"""Any adapter file opened with the base model that it is for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import si_hub
from si_hub.architectures import Architecture, Model, load
from si_hub.editing.opening import open_adapter
from si_hub.errors import BaseMismatch

PATH = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def kohya(file: Path, preview: str = "") -> Path:
    stem = f"lora_unet_{PATH.replace('.', '_')}"
    held = {f"{stem}.lora_down.weight": np.ones((2, 320), "<f2"), f"{stem}.lora_up.weight": np.ones((320, 2), "<f2")}
    save_file(held, file, {"modelspec.thumbnail": preview} if preview else None)
    return file


def narrowed(**changes: Model | None) -> Architecture:
    """SD 1.5 under a name of its own, with components changed or left out."""
    components = {**load("sd15").components, **changes}
    return Architecture("my-own", {name: model for name, model in components.items() if model is not None})


def test_a_base_of_another_name_is_one_where_it_has_the_modules(tmp_path: Path) -> None:
    si_hub.convert(kohya(tmp_path / "a.safetensors"), tmp_path / "ours.safetensors", base="sd15")
    _, architecture, _ = open_adapter(tmp_path / "ours.safetensors", narrowed(text_encoder=None))
    assert architecture.name == "my-own"
    modules = {path: module for path, module in load("sd15").components["unet"].modules.items() if path != PATH}
    lacking = narrowed(unet=Model("UNet2DConditionModel", modules))
    for base in (lacking, narrowed(unet=None)):
        with pytest.raises(BaseMismatch, match=rf"is for another base model.*expected sd15.*has no unet\.{PATH}"):
            open_adapter(tmp_path / "ours.safetensors", base)


def test_a_preview_is_kept_where_the_whole_header_is_wanted(tmp_path: Path) -> None:
    preview = "data:image/jpeg;base64," + "A" * 20_000
    file = kohya(tmp_path / "a.safetensors", preview)
    assert "modelspec.thumbnail" not in open_adapter(file, "sd15")[0].metadata
    assert open_adapter(file, "sd15", whole_header=True)[0].metadata["modelspec.thumbnail"] == preview
