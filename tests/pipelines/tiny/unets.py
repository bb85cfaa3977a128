"""Tiny pipelines whose denoiser is a UNet."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel

from tests.pipelines.tiny import parts
from tests.pipelines.tiny.calls import GUIDED, given, picture, square
from tests.pipelines.tiny.parts import WIDTH, clip, movq, t5, tokenizer
from tests.pipelines.tiny.table import Made, tiny


def unet(name: str, cross: int, **options: Any) -> Any:
    return UNet2DConditionModel(
        block_out_channels=(16, 32), layers_per_block=1, sample_size=8, cross_attention_dim=cross,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), norm_num_groups=8, attention_head_dim=8,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **options,
    )  # fmt: skip


def controlled(name: str, found: dict[str, Any], options: dict[str, Any]) -> Made:
    """The same, with a ControlNet of its UNet where the class takes one."""
    if "ControlNet" not in name:
        return found, options
    net = diffusers.ControlNetModel.from_unet(found["unet"], conditioning_embedding_out_channels=(8, 16))
    return {**found, "controlnet": net}, {**options, "image": picture(16)}


@tiny(
    "StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline",
    "StableDiffusionPAGPipeline", "StableDiffusionControlNetPipeline", "StableDiffusionInstructPix2PixPipeline",
    "LatentConsistencyModelPipeline", "AnimateDiffPipeline",
)  # fmt: skip
def stable_diffusion(name: str) -> Made:
    more: dict[str, Any] = {}
    channels = 8 if "Pix2Pix" in name else 4
    if "Consistency" in name:
        more["time_cond_proj_dim"] = 8
    made = unet(name, WIDTH, in_channels=channels, **more)
    scheduler = DDIMScheduler(steps_offset=1, clip_sample=False)
    found = {
        "vae": parts.vae(4, 2), "text_encoder": clip(), "tokenizer": tokenizer(), "unet": made, "scheduler": scheduler,
        "feature_extractor": None,
    }  # fmt: skip
    options: dict[str, Any] = {**square(16), **given(name, 16)}
    if "AnimateDiff" in name:
        adapter = diffusers.MotionAdapter(
            block_out_channels=(16, 32), motion_layers_per_block=1, motion_norm_num_groups=8,
            motion_num_attention_heads=4,
        )  # fmt: skip
        return {**found, "motion_adapter": adapter}, {**options, "num_frames": 2}
    found |= {"safety_checker": None, "requires_safety_checker": False}
    if "Img2Img" in name or "Pix2Pix" in name:
        del options["height"], options["width"]
    if "Pix2Pix" in name:
        options["image"] = picture(16)
    if "Consistency" in name:
        found["scheduler"] = diffusers.LCMScheduler()
        del options["negative_prompt"]
    return controlled(name, found, options)


@tiny(
    "StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline",
    "StableDiffusionXLPAGPipeline", "StableDiffusionXLControlNetPipeline",
)  # fmt: skip
def stable_diffusion_xl(name: str) -> Made:
    base = "Img2Img" not in name and "Inpaint" not in name
    made = unet(
        name, 2 * WIDTH, transformer_layers_per_block=(1, 2), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + WIDTH,
    )  # fmt: skip
    found = {
        "vae": parts.vae(4, 2), "text_encoder": clip(), "tokenizer": tokenizer(), "unet": made,
        "text_encoder_2": clip(projected=True), "tokenizer_2": tokenizer(),
        "scheduler": DDIMScheduler(steps_offset=1, clip_sample=False), "add_watermarker": False,
    }  # fmt: skip
    options = {**GUIDED, **given(name, 16)}
    if base or "Inpaint" in name:
        options |= {"height": 16, "width": 16}
    return controlled(name, found, options)


@tiny("Kandinsky3Pipeline")
def kandinsky3(name: str) -> Made:
    made = diffusers.Kandinsky3UNet(
        in_channels=4, time_embedding_dim=4, groups=2, attention_head_dim=4, layers_per_block=2,
        block_out_channels=(32, 64), cross_attention_dim=4, encoder_hid_dim=32,
    )  # fmt: skip
    found = {
        "scheduler": DDPMScheduler(beta_schedule="squaredcos_cap_v2"), "unet": made, "movq": movq(),
        "text_encoder": t5(), "tokenizer": tokenizer(128),
    }  # fmt: skip
    return found, square(16)


@tiny("KandinskyV22Pipeline")
def kandinsky22(name: str) -> Made:
    made = UNet2DConditionModel(
        in_channels=4, out_channels=8, addition_embed_type="image", down_block_types=(
            "ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"
        ), up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), layers_per_block=1,
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", block_out_channels=(32, 64), cross_attention_dim=32,
        encoder_hid_dim=32, encoder_hid_dim_type="image_proj", attention_head_dim=4,
        resnet_time_scale_shift="scale_shift",
        class_embed_type=None, norm_num_groups=8,
    )  # fmt: skip
    draw = torch.Generator().manual_seed(5)
    seen = {key: torch.randn(1, 32, generator=draw) for key in ("image_embeds", "negative_image_embeds")}
    scheduler = DDIMScheduler(clip_sample=False, prediction_type="epsilon")
    return {"scheduler": scheduler, "unet": made, "movq": movq()}, {**seen, "height": 16, "width": 16}
