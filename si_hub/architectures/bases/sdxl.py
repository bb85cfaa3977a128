"""Stable Diffusion XL."""

from __future__ import annotations

from typing import Any

from si_hub.architectures.bases.contract import Base
from si_hub.architectures.bases.encoders import CLIP_L, OPENCLIP_BIGG
from si_hub.architectures.bases.unets import CROSS, INPUTS, PLAIN, UP_CROSS, UP_PLAIN, unet
from si_hub.architectures.layouts.unet import sgm

#: Models cut from it have fewer layers.
SDXL_CONFIG: dict[str, Any] = {
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "down_block_types": [PLAIN, CROSS, CROSS],
    "up_block_types": [UP_CROSS, UP_CROSS, UP_PLAIN],
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
    "addition_time_embed_dim": 256,
    "addition_embed_type": "text_time",
    "projection_class_embeddings_input_dim": 2816,
}

BASE = Base(
    name="sdxl",
    title="Stable Diffusion XL",
    components={"unet": unet("unet_sdxl", **SDXL_CONFIG), "text_encoder": CLIP_L, "text_encoder_2": OPENCLIP_BIGG},
    # Those it was tuned into that people name instead; Pony V7 is another base.
    aliases=(
        "sdxl-base",
        "sdxl-1.0",
        "sdxl1.0",
        "sdxl-turbo",
        "stable-diffusion-xl",
        "stable-diffusion-xl-v1-base",
        "stable-diffusion-xl-base-1.0",
        "pony",
        "pony-v6",
        "pony-xl",
        "illustrious",
        "illustrious-xl",
        "noobai",
        "noobai-xl",
        "animagine-xl",
    ),
    repositories=("stabilityai/stable-diffusion-xl-base-1.0",),
    layouts=(sgm,),
    hints=("sdxl", "stable-diffusion-xl", "pony", "illustrious", "noobai"),
    modelspec="stable-diffusion-xl-v1-base",
    kohya="sdxl_base_v1-0",
    implementation="https://github.com/Stability-AI/generative-models",
    inputs=INPUTS,
)
