"""What the ComfyUI nodes are told in words; `make test-comfyui` holds what they do against ComfyUI itself."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from si_hub import format
from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.errors import UsageError
from si_hub.storage.tensors import Tensor
from tests import sparse


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The package as ComfyUI imports it, with a folder of LoRAs."""
    paths = types.SimpleNamespace(
        get_filename_list=lambda kind: sorted(path.name for path in tmp_path.iterdir()),
        get_full_path=lambda kind, name: str(tmp_path / name) if (tmp_path / name).exists() else None,
    )
    monkeypatch.setitem(sys.modules, "folder_paths", paths)
    for name in ("examples.comfyui", "examples.comfyui.nodes"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("examples.comfyui.nodes")


def test_styles_are_names_with_numbers(nodes: Any) -> None:
    assert nodes.read_weights("") == {}
    assert nodes.read_weights("ink=0.7, neon=-.3 oil=1e-2") == {"ink": 0.7, "neon": -0.3, "oil": 0.01}
    for wrong in ("ink", "=1", "ink=", "ink=much", "ink=1 ink=2"):
        with pytest.raises(UsageError):
            nodes.read_weights(wrong)


def test_a_list_is_a_line_a_file(nodes: Any) -> None:
    text = """
    # my mix
    a lora.safetensors
    folder/style one.safetensors 0.8 ink=0.7, neon=0.3  # a remark
    x.safetensors 1 0
    """
    first, second, third = nodes.read_list(text)
    assert (first.file, first.strength_model, first.strength_clip, first.styles) == ("a lora.safetensors", 1, 1, {})
    assert (second.file, second.strength_model, second.strength_clip) == ("folder/style one.safetensors", 0.8, 0.8)
    assert second.styles == {"ink": 0.7, "neon": 0.3}
    assert (third.strength_model, third.strength_clip) == (1.0, 0.0)


@pytest.mark.parametrize("line", ["no file", "x.safetensors 1 2 3", "x.safetensors much", "x.safetensors ink=1 ink=2"])
def test_a_line_that_says_something_else_is_refused(nodes: Any, line: str) -> None:
    with pytest.raises(UsageError):
        nodes.read_list(line)


def test_a_file_of_ours_and_a_foreign_one_are_read(nodes: Any, tmp_path: Path) -> None:
    from examples.comfyui.reading import read_adapter

    layers = {"conv_in": Layer({"gain": Tensor.from_numpy(np.ones(4, np.float32))})}
    format.write(Adapter(BaseModel("sd15"), {"unet": Component(None, layers)}), tmp_path / "ours.safetensors")
    assert list(read_adapter(tmp_path / "ours.safetensors").components["unet"].layers) == ["conv_in"]
    stem = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    entries = {f"{stem}.lora_down.weight": ("F16", (2, 768)), f"{stem}.lora_up.weight": ("F16", (3072, 2))}
    sparse.write_zeros(tmp_path / "lora.safetensors", entries, {"ss_base_model_version": "sd_v1"})
    adapter = read_adapter(tmp_path / "lora.safetensors")
    assert list(adapter.components["text_encoder"].layers) == ["text_model.encoder.layers.0.mlp.fc1"]
    changed = nodes.StyleInjectLoader.IS_CHANGED("lora.safetensors")
    (tmp_path / "lora.safetensors").touch()
    assert nodes.StyleInjectLoader.IS_CHANGED("lora.safetensors") != changed
