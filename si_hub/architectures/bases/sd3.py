"""Stable Diffusion 3 medium."""

from __future__ import annotations

from si_hub.architectures.bases.contract import Base, Blueprint
from si_hub.architectures.bases.encoders import CLIP_L_PROJECTION, OPENCLIP_BIGG, T5_XXL
from si_hub.architectures.layouts.sd3 import mmdit

_TRANSFORMER = Blueprint(
    "transformer_sd3", "diffusers", "SD3Transformer2DModel",
    {"sample_size": 128, "num_layers": 24, "attention_head_dim": 64, "num_attention_heads": 24,
     "caption_projection_dim": 1536, "pos_embed_max_size": 192},
)  # fmt: skip

BASE = Base(
    name="sd3",
    title="Stable Diffusion 3 medium",
    components={
        "transformer": _TRANSFORMER,
        "text_encoder": CLIP_L_PROJECTION,
        "text_encoder_2": OPENCLIP_BIGG,
        "text_encoder_3": T5_XXL,
    },
    aliases=("sd3-medium", "sd3.0", "stable-diffusion-3", "stable-diffusion-3-medium"),
    repositories=("stabilityai/stable-diffusion-3-medium-diffusers",),
    layouts=(mmdit,),
    hints=("sd3", "sd_3", "medium", "stable-diffusion-3", "stable-diffusion-v3", "SD 3"),
    kohya="sd3_m",
    inferred="sd3",
    inputs=("pos_embed.proj",),
)
