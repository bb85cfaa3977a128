"""Single-file checkpoints: diffusers' own loader gives back the pipeline that was folded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from examples.miniature import autoencoder, base, text
from examples.miniature.checkpoints import (
    fold,
    from_open_clip,
    open_clip,
    rename_to_original,
    unet_key,
    unfold,
    vae_key,
)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionPipeline:
    torch.manual_seed(0)
    tokenizer = text.load_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    text_encoder = CLIPTextModel(text.text_config(tokenizer))
    unet, vae = UNet2DConditionModel(**base.UNET), AutoencoderKL(**autoencoder.VAE, scaling_factor=0.7)
    return base.assemble(vae, text_encoder, tokenizer, unet, base.new_scheduler())


def test_a_folded_checkpoint_unfolds_to_the_same_weights(pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "base")
    fold(pipe, tmp_path / "style.safetensors", "style")
    found = unfold(tmp_path / "style.safetensors", tmp_path / "base")
    for component in ("unet", "vae", "text_encoder"):
        before, after = (getattr(one, component).state_dict() for one in (pipe, found))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key].half().float(), after[key]) for key in before)
    assert found.vae.config.scaling_factor == 0.7
    assert found.scheduler.config.prediction_type == "v_prediction"
    assert found.tokenizer.model_max_length == text.TOKENS


def test_every_name_is_one_of_original_stable_diffusion(pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    file = tmp_path / "style.safetensors"
    fold(pipe, file, "style")
    with safe_open(file, "pt") as opened:
        roots = {".".join(key.split(".")[:2]) for key in opened.keys()}  # noqa: SIM118
    assert roots == {
        "model.diffusion_model",
        "first_stage_model.encoder",
        "first_stage_model.decoder",
        "first_stage_model.quant_conv",
        "first_stage_model.post_quant_conv",
        "cond_stage_model.transformer",
    }


def test_no_two_parameters_get_one_name(pipe: StableDiffusionPipeline) -> None:
    parts = (pipe.unet, pipe.vae, pipe.text_encoder)
    assert len(rename_to_original(pipe)) == sum(len(part.state_dict()) for part in parts)


# Taken from the published v1-5-pruned-emaonly.safetensors: two layers a block, attention in up blocks 1, 2 and 3.
@pytest.mark.parametrize(
    ("key", "original"),
    [
        ("conv_in.weight", "input_blocks.0.0.weight"),
        ("time_embedding.linear_2.bias", "time_embed.2.bias"),
        ("down_blocks.0.downsamplers.0.conv.weight", "input_blocks.3.0.op.weight"),
        ("down_blocks.1.resnets.0.conv_shortcut.weight", "input_blocks.4.0.skip_connection.weight"),
        ("down_blocks.2.attentions.1.proj_in.weight", "input_blocks.8.1.proj_in.weight"),
        ("mid_block.attentions.0.norm.bias", "middle_block.1.norm.bias"),
        ("mid_block.resnets.1.time_emb_proj.weight", "middle_block.2.emb_layers.1.weight"),
        ("up_blocks.0.upsamplers.0.conv.bias", "output_blocks.2.1.conv.bias"),
        ("up_blocks.1.upsamplers.0.conv.bias", "output_blocks.5.2.conv.bias"),
        ("up_blocks.3.resnets.2.norm1.weight", "output_blocks.11.0.in_layers.0.weight"),
        ("conv_norm_out.weight", "out.0.weight"),
    ],
)
def test_unet_names_are_those_of_stable_diffusion_1_5(key: str, original: str) -> None:
    assert unet_key(key, 2, frozenset({1, 2, 3})) == original


@pytest.mark.parametrize(
    ("key", "original"),
    [
        ("encoder.down_blocks.1.resnets.0.conv_shortcut.weight", "encoder.down.1.block.0.nin_shortcut.weight"),
        ("encoder.down_blocks.2.downsamplers.0.conv.bias", "encoder.down.2.downsample.conv.bias"),
        ("decoder.up_blocks.0.resnets.2.conv1.weight", "decoder.up.3.block.2.conv1.weight"),
        ("decoder.up_blocks.2.upsamplers.0.conv.weight", "decoder.up.1.upsample.conv.weight"),
        ("decoder.mid_block.attentions.0.to_out.0.bias", "decoder.mid.attn_1.proj_out.bias"),
        ("encoder.mid_block.resnets.1.norm2.weight", "encoder.mid.block_2.norm2.weight"),
        ("encoder.conv_norm_out.bias", "encoder.norm_out.bias"),
        ("quant_conv.weight", "quant_conv.weight"),
    ],
)
def test_autoencoder_names_are_those_of_stable_diffusion_1_5(key: str, original: str) -> None:
    assert vae_key(key, 4) == original


def test_a_parameter_without_an_original_name_is_an_error() -> None:
    with pytest.raises(KeyError):
        unet_key("controlnet.weight", 2, frozenset())


def test_names_of_open_clip_and_back(tmp_path: Path) -> None:
    encoder = CLIPTextModelWithProjection(text.text_config(text.load_tokenizer(tmp_path), projection_dim=64))
    before = encoder.state_dict()
    after = from_open_clip(open_clip(before), before)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
