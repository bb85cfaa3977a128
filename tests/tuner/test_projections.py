"""Adapters in projections that diffusers fuses into one layer while they are loaded."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn

import si_hub.tuner as tuner
from si_hub.adapter import Component, Layer
from si_hub.storage.tensors import Tensor as Stored
from si_hub.tuner import StyleInjectConfig


def component(unet: nn.Module, ends: tuple[str, ...] = ("to_q", "to_v", "to_out.0")) -> Component:
    draw = torch.Generator().manual_seed(3)
    layers = {}
    for path, module in unet.named_modules():
        if path.endswith(ends) and isinstance(module, nn.Linear):
            out, into = module.weight.shape
            tensors = {
                "down.weight": torch.randn(2, into, generator=draw),
                "up.weight": torch.randn(out, 2, generator=draw),
                "gain": 1 + 0.3 * torch.randn(out, generator=draw),
            }
            layers[path] = Layer({name: Stored.from_torch(value) for name, value in tensors.items()})
    assert layers
    return Component(layers=layers)


@torch.no_grad()
def run(unet: Any) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    latents, states = torch.randn(2, 4, 8, 8, generator=draw), torch.randn(2, 5, 8, generator=draw)
    found: Tensor = unet(latents, torch.tensor([10, 500]), states).sample
    return found


def test_they_act_as_without_fusing(unet: Any) -> None:
    base = run(unet)
    tuner.inject(unet, component(unet), name="style")
    expected = run(unet)
    assert not torch.allclose(expected, base, atol=1e-2)
    unet.fuse_qkv_projections()
    torch.testing.assert_close(run(unet), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(run(copy.deepcopy(unet)), expected, rtol=1e-4, atol=1e-4)
    tuner.set_active(unet, {"style": 0.0})
    torch.testing.assert_close(run(unet), base, rtol=1e-4, atol=1e-4)
    unet.unfuse_qkv_projections()
    tuner.set_active(unet, {"style": 1.0})
    torch.testing.assert_close(run(unet), expected)


@pytest.mark.parametrize("first", ["weights", "projections"])
def test_fused_weights_and_fused_projections_go_in_any_order_and_back(unet: Any, first: str) -> None:
    base = run(unet)
    tuner.inject(unet, component(unet), name="style")
    expected = run(unet)
    for step in ("weights", "projections") if first == "weights" else ("projections", "weights"):
        if step == "weights":
            tuner.fuse_in_place(unet)
        else:
            unet.fuse_qkv_projections()
        torch.testing.assert_close(run(unet), expected, rtol=1e-3, atol=1e-3)
    tuner.unfuse(unet)
    torch.testing.assert_close(run(unet), expected, rtol=1e-4, atol=1e-4)
    tuner.remove(unet)
    torch.testing.assert_close(run(unet), base, rtol=1e-4, atol=1e-4)


def test_nothing_is_left_after_the_last_adapter(unet: Any) -> None:
    tuner.inject(unet, component(unet), name="a")
    tuner.inject(unet, component(unet, ("to_k",)), name="b")
    unet.fuse_qkv_projections()
    run(unet)
    tuner.remove(unet, "a")
    assert any(module._forward_pre_hooks for module in unet.modules())
    tuner.remove(unet)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in unet.modules())


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_a_trained_adapter_around_a_lora_is_followed_too(unet: Any) -> None:
    base = run(unet)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]), "lora")
    unet.add_adapter(StyleInjectConfig(r=2, target_modules=["to_q", "to_k"], init_weights=False), "style")
    expected = run(unet)
    assert not torch.allclose(expected, base, atol=1e-3)
    unet.fuse_qkv_projections()
    torch.testing.assert_close(run(unet), expected, rtol=1e-4, atol=1e-4)
