"""The refiner of Stable Diffusion XL, which has its larger text encoder alone."""

from __future__ import annotations

from si_hub.architectures.bases.contract import Base
from si_hub.architectures.bases.encoders import OPENCLIP_BIGG
from si_hub.architectures.bases.unets import CROSS, INPUTS, PLAIN, UP_CROSS, UP_PLAIN, unet
from si_hub.architectures.layouts.unet import sgm

_UNET = unet(
    "unet_sdxl_refiner",
    block_out_channels=[384, 768, 1536, 1536],
    cross_attention_dim=1280,
    attention_head_dim=[6, 12, 24, 24],
    down_block_types=[PLAIN, CROSS, CROSS, PLAIN],
    up_block_types=[UP_PLAIN, UP_CROSS, UP_CROSS, UP_PLAIN],
    transformer_layers_per_block=4,
    use_linear_projection=True,
    addition_time_embed_dim=256,
    addition_embed_type="text_time",
    projection_class_embeddings_input_dim=2560,
)

BASE = Base(
    name="sdxl-refiner",
    title="Stable Diffusion XL refiner",
    components={"unet": _UNET, "text_encoder_2": OPENCLIP_BIGG},
    aliases=("stable-diffusion-xl-v1-refiner",),
    repositories=("stabilityai/stable-diffusion-xl-refiner-1.0",),
    layouts=(sgm,),
    hints=("sdxl_refiner", "stable-diffusion-xl-v1-refiner"),
    inputs=INPUTS,
)
