"""Files as adapters: ours with and without their base model, and foreign ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import si_hub
from si_hub.architectures import Architecture, Model, load
from si_hub.editing.opening import open_adapter, open_alone
from si_hub.errors import BaseMismatch, UsageError
from tests.commands import write_kohya
from tests.miniature import BASE, KOHYA_LORA

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


def test_a_file_of_ours_for_a_base_of_the_users_own_is_read_alone_and_opened_with_its_folder(tmp_path: Path) -> None:
    ours = si_hub.convert(KOHYA_LORA, tmp_path / "ours.safetensors", base=BASE).path
    alone = open_alone(ours, None)
    assert sum(len(component.layers) for component in alone.components.values()) == 66
    adapter, architecture, weights = open_adapter(ours, BASE)
    assert adapter == alone
    assert architecture.components.keys() >= {"unet", "text_encoder"}
    assert weights is not None
    with pytest.raises(UsageError, match=r"is for a base model that is none of those known here.*base=FOLDER"):
        open_adapter(ours, None)
    with pytest.raises(BaseMismatch, match="is for another base model"):
        open_adapter(ours, "sdxl")


def test_a_foreign_file_is_converted_and_a_known_base_needs_no_name(tmp_path: Path) -> None:
    file = write_kohya(tmp_path / "lora.safetensors")
    ours = si_hub.convert(file, tmp_path / "ours.safetensors").path
    for one in (file, ours):
        adapter, architecture, weights = open_adapter(one, None)
        assert (architecture.name, weights) == ("sd15", None)
        assert open_alone(one, None).components.keys() == adapter.components.keys() == {"unet", "text_encoder"}
