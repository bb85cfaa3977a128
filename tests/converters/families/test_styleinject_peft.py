"""Folders that PEFT saves of StyleInject: loaded, they do what the saved model did; broken ones are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import get_peft_model
from safetensors.torch import load_file, save_file

import si_hub
from si_hub import format
from si_hub.errors import (
    BaseMismatch,
    FormatError,
    LayerShapeError,
    MissingTensor,
    SiHubError,
    UnsupportedFamily,
)
from tests.miniature import BASE

CASES: dict[str, dict[str, Any]] = {
    "one branch": {"transform": "add", "alpha": 2.0},
    "a learned router": {"num_branches": 3, "transform": "variance"},
    "named styles": {"num_branches": 2, "branches": ["ink", "neon"], "router": "fixed", "transform": "restyle"},
    "patterns and biases": {
        "transform": "add", "rank_pattern": {"to_k": 2}, "alpha_pattern": {"to_k": 5.0}, "train_bias": True,
    },
    "cores and gains": {
        "num_branches": 2, "transform": "variance", "core": True, "train_gain": True,
        "gain_modules": ["norm1", "norm2", "to_v", "conv_norm_out"], "train_bias": True,
    },
}  # fmt: skip


def run(unet: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    latents, text = torch.randn(2, 8, 8, 8, generator=generator), torch.randn(2, 7, 64, generator=generator)
    with torch.no_grad():
        found: torch.Tensor = unet(latents, torch.tensor([500, 20]), text).sample
    return found


def save(folder: Path, **options: Any) -> torch.Tensor:
    """A folder with random numbers, and what the model that was saved predicts."""
    unet = UNet2DConditionModel.from_pretrained(BASE / "unet")
    config = si_hub.StyleInjectConfig(r=4, target_modules=["to_q", "to_k", "conv1"], **options)
    model: Any = get_peft_model(unet, config)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "styleinject_layer" in name:
                parameter.copy_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return run(model)


@pytest.mark.parametrize("case", CASES)
def test_a_folder_does_what_its_model_did(case: str, tmp_path: Path) -> None:
    expected = save(tmp_path / "peft", **CASES[case])
    si_hub.enable()
    pipe: Any = StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)
    before = run(pipe.unet)
    pipe.load_styleinject_weights(tmp_path / "peft")
    torch.testing.assert_close(run(pipe.unet), expected, rtol=1e-4, atol=1e-4)
    assert (before - expected).abs().max() > 1e-2
    found = si_hub.convert(tmp_path / "peft", tmp_path / "ours.safetensors", base=BASE)
    assert found.exact
    adapter = format.read(found.path)
    assert adapter.branches == tuple(CASES[case].get("branches", ()))
    layers = adapter.components["unet"].layers
    assert {layer.transform for layer in layers.values() if layer.rank} == {CASES[case]["transform"]}
    assert any("core.weight" in layer.tensors for layer in layers.values()) == ("core" in CASES[case])
    assert any(not layer.rank and "gain" in layer.tensors for layer in layers.values()) == ("core" in CASES[case])


def test_what_no_weight_can_hold_is_no_difference(tmp_path: Path) -> None:
    save(tmp_path / "peft", num_branches=2)
    for options in ({"check": True}, {"rank": 2}):
        with pytest.raises(UnsupportedFamily, match="is StyleInject, which is no difference of a weight"):
            si_hub.convert(tmp_path / "peft", tmp_path / "o.safetensors", base=BASE, **options)


@pytest.mark.parametrize(
    ("leaf", "change", "error"),
    [("gain.weight", lambda t: t[1:], BaseMismatch), ("core.weight", lambda t: t[:, 1:], LayerShapeError),
     ("core.weight", lambda t: t[1:], LayerShapeError), ("up.weight", None, MissingTensor)],
)  # fmt: skip
def test_shapes_that_contradict_are_told(leaf: str, change: Any, error: type[SiHubError], tmp_path: Path) -> None:
    save(tmp_path / "peft", core=True, train_gain=True)
    file = tmp_path / "peft" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith(f"conv1.styleinject_layer.{leaf}"))
    value = tensors.pop(name)
    save_file(tensors | ({} if change is None else {name: change(value).contiguous()}), file)
    with pytest.raises(error, match="conv1"):
        si_hub.convert(tmp_path / "peft", tmp_path / "o.safetensors", base=BASE)


@pytest.mark.parametrize(("name", "value"), [("transform", "magic"), ("pool", None), ("alpha", "two"), ("alpha", True)])
def test_a_configuration_that_says_nonsense_is_told(name: str, value: Any, tmp_path: Path) -> None:
    save(tmp_path / "peft")
    file = tmp_path / "peft" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), name: value}), encoding="utf-8")
    with pytest.raises(FormatError, match=f"configuration has no usable {name}"):
        si_hub.convert(tmp_path / "peft", tmp_path / "o.safetensors", base=BASE)
    file.unlink()
    with pytest.raises(SiHubError):
        si_hub.convert(tmp_path / "peft", tmp_path / "o.safetensors", base=BASE)
