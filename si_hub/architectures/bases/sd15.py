"""Stable Diffusion 1: 1.1 to 1.5."""

from __future__ import annotations

from si_hub.architectures.bases.contract import Base
from si_hub.architectures.bases.encoders import CLIP_L
from si_hub.architectures.bases.unets import INPUTS, unet
from si_hub.architectures.layouts.unet import sgm

BASE = Base(
    name="sd15",
    title="Stable Diffusion 1.5",
    components={"unet": unet("unet_sd15", cross_attention_dim=768), "text_encoder": CLIP_L},
    aliases=(
        "sd1", "sd14", "sd1.4", "sd1.5", "sd-1.5", "sd-v1-5", "stable-diffusion-v1", "stable-diffusion-v1-4",
        "stable-diffusion-v1-5", "stable-diffusion-1.5",
    ),
    repositories=(
        "stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5",
        "CompVis/stable-diffusion-v1-4",
    ),
    layouts=(sgm,),
    hints=("sd1", "sd_v1", "stable-diffusion-1", "stable-diffusion-v1"),
    modelspec="stable-diffusion-v1",
    kohya="sd_v1",
    kohya_v="sd_v1_v",
    kohya_native=False,
    implementation="https://github.com/Stability-AI/generative-models",
    inputs=INPUTS,
)  # fmt: skip
