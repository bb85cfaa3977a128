"""Which adapters a pipeline has: the models know, whichever pipeline asks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline

from si_hub.errors import UsageError

Make = Callable[..., Any]


def test_pipelines_that_share_models_agree_about_their_adapters(
    sd: Make, lora: Make, adapter: Make, noise: Make, tmp_path: Path
) -> None:
    pipe = sd()
    twin = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)), "ink")
    assert twin.get_list_styleinject_adapters() == {"unet": ["ink"]}
    twin.save_styleinject_weights(tmp_path)
    twin.delete_styleinject_adapters("ink")
    assert pipe.get_list_styleinject_adapters() == {}


def test_a_deep_copy_is_independent(sd: Make, lora: Make, adapter: Make, noise: Make) -> None:
    pipe = sd()
    base = noise(pipe)
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)), "ink")
    shown = noise(pipe)
    twin = copy.copy(pipe)
    twin.unet = copy.deepcopy(pipe.unet)
    twin.unload_styleinject_weights()
    assert torch.equal(noise(twin), base)
    assert torch.equal(noise(pipe), shown)
    assert pipe.get_list_styleinject_adapters() == {"unet": ["ink"]}


def test_moving_an_adapter_to_another_device_moves_its_tensors_only(sd: Make, lora: Make, adapter: Make) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)), "ink")
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet, seed=1)), "neon")
    pipe.set_styleinject_device("ink", "meta")
    devices = {
        name: {value.device.type for key, value in pipe.unet.named_parameters() if f"styleinject_layer.{name}." in key}
        for name in ("ink", "neon")
    }
    assert devices == {"ink": {"meta"}, "neon": {"cpu"}}
    with pytest.raises(UsageError, match="oil"):
        pipe.set_styleinject_device("oil", "cpu")
