"""The call-time scale: cross_attention_kwargs={"scale": s} and its kin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, FluxTransformer2DModel, SD3Transformer2DModel
from torch import nn

Make = Callable[..., Any]
TEXT = ("q_proj", "fc1")


def test_a_call_s_scale_multiplies_the_weights_in_unet_and_text_encoder_for_that_call_only(
    sd: Make, lora: Make, adapter: Make, latents: Make
) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet), text_encoder=lora(pipe.text_encoder, TEXT)), "a")
    pipe.set_styleinject_adapters("a", 0.4)
    expected = latents(pipe)
    pipe.set_styleinject_adapters("a", 0.8)
    shown = latents(pipe)
    assert not torch.allclose(shown, expected, atol=1e-3)
    assert torch.allclose(latents(pipe, cross_attention_kwargs={"scale": 0.5}), expected, atol=1e-5)
    assert torch.equal(latents(pipe), shown)


def test_on_sdxl_both_text_encoders_follow_the_scale(sdxl: Make, lora: Make, adapter: Make, latents: Make) -> None:
    pipe = sdxl()
    parts = {name: lora(getattr(pipe, name), TEXT) for name in ("text_encoder", "text_encoder_2")}
    pipe.load_styleinject_weights(adapter(**parts), "a")
    pipe.set_styleinject_adapters("a", 0.5)
    expected = latents(pipe)
    pipe.set_styleinject_adapters("a", 1.0)
    shown = latents(pipe)
    assert not torch.equal(shown, expected)
    assert torch.allclose(latents(pipe, cross_attention_kwargs={"scale": 0.5}), expected, atol=1e-5)
    assert torch.equal(latents(pipe), shown)


class Diffuser(DiffusionPipeline):
    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.register_modules(transformer=transformer)


def flux(**options: Any) -> tuple[Any, Callable[..., torch.Tensor]]:
    model = FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(2, 2, 4),
    ).eval()  # fmt: skip
    draw = torch.Generator().manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(1, 6, 4, generator=draw), "timestep": torch.tensor([0.5]),
        "encoder_hidden_states": torch.randn(1, 5, 16, generator=draw), "img_ids": torch.zeros(6, 3),
        "pooled_projections": torch.randn(1, 16, generator=draw), "txt_ids": torch.zeros(5, 3),
    }  # fmt: skip
    return model, lambda **options: model(**inputs, **options).sample


def sd3(**options: Any) -> tuple[Any, Callable[..., torch.Tensor]]:
    model = SD3Transformer2DModel(
        sample_size=8, patch_size=1, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        caption_projection_dim=16, joint_attention_dim=16, pooled_projection_dim=16, pos_embed_max_size=8,
    ).eval()  # fmt: skip
    draw = torch.Generator().manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(1, 4, 8, 8, generator=draw), "timestep": torch.tensor([5]),
        "encoder_hidden_states": torch.randn(1, 5, 16, generator=draw),
        "pooled_projections": torch.randn(1, 16, generator=draw),
    }  # fmt: skip
    return model, lambda **options: model(**inputs, **options).sample


@pytest.mark.parametrize("build", [flux, sd3])
@torch.no_grad()
def test_transformers_follow_joint_attention_kwargs(build: Make, lora: Make, adapter: Make, merged: Make) -> None:
    model, run = build()
    pipe = Diffuser(model)
    base = run()
    part = lora(model, ("to_q", "to_out.0", "proj_mlp", "ff.net.2", "norm1.linear"))
    pipe.load_styleinject_weights(adapter(transformer=part), "a", weight=0.8)
    shown = run()
    half = run(joint_attention_kwargs={"scale": 0.5})
    pipe.set_styleinject_adapters("a", 0.4)
    assert torch.allclose(half, run(), atol=1e-6)
    assert not torch.allclose(half, base, atol=1e-3)
    pipe.set_styleinject_adapters("a", 0.8)
    assert torch.equal(run(joint_attention_kwargs={"scale": 0.0}), base)
    assert torch.equal(run(), shown)
    pipe.set_styleinject_adapters("a", {"transformer": {"transformer_blocks.0": 0.0}})
    assert not torch.equal(run(), shown)
    pipe.unload_styleinject_weights()
    assert torch.equal(run(), base)


def test_fusing_a_lora_with_a_scale_does_not_scale_ours(
    sd: Make, lora: Make, adapter: Make, as_lora: Make, noise: Make
) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet, seed=1)), "a")
    shown = noise(pipe)
    pipe.load_lora_weights(as_lora(lora(pipe.unet, ("to_k",), alpha=None), "unet"), adapter_name="theirs")
    pipe.fuse_lora(components=["unet"], lora_scale=0.5, adapter_names=["theirs"])
    pipe.unfuse_lora(components=["unet"])
    pipe.unload_lora_weights()
    assert torch.allclose(noise(pipe), shown, atol=1e-6)


@pytest.mark.parametrize("scale", [0.5, 0.0])
def test_a_lora_loaded_after_a_scaled_call_does_not_leave_ours_scaled(
    sd: Make, lora: Make, adapter: Make, as_lora: Make, latents: Make, words: Make, scale: float
) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(text_encoder=lora(pipe.text_encoder, TEXT)), "a")
    shown = words(pipe)
    latents(pipe, cross_attention_kwargs={"scale": scale})
    theirs = lora(pipe.text_encoder, ("k_proj",), alpha=None, seed=1)
    # diffusers keeps the call's scale, puts it on every layer of the text encoder, and never takes it back.
    pipe.load_lora_weights(as_lora(theirs, "text_encoder"), adapter_name="theirs")
    assert pipe.lora_scale == scale
    pipe.disable_lora()
    assert torch.equal(words(pipe), shown)
    pipe.enable_lora()
    both = latents(pipe)
    latents(pipe, cross_attention_kwargs={"scale": 0.5})
    assert torch.equal(latents(pipe), both)
    pipe.unload_lora_weights()
    assert torch.equal(words(pipe), shown)
