"""Segmind's SSD-1B and Vega: SDXL with fewer layers in its attention, and none in its middle."""

from __future__ import annotations

from typing import Any

from si_hub.architectures.bases.contract import Base, Blueprint
from si_hub.architectures.bases.encoders import CLIP_L, OPENCLIP_BIGG
from si_hub.architectures.bases.sdxl import SDXL_CONFIG
from si_hub.architectures.bases.unets import INPUTS, unet
from si_hub.architectures.layouts.unet import sgm


def _unet(table: str, *, down: list[Any], up: list[Any]) -> Blueprint:
    """A UNet with so many layers in each attention of its blocks."""
    return unet(
        table,
        **SDXL_CONFIG
        | {
            "mid_block_type": "UNetMidBlock2D",
            "transformer_layers_per_block": down,
            "reverse_transformer_layers_per_block": up,
        },
    )


SSD_1B = Base(
    name="ssd-1b",
    title="Segmind SSD-1B",
    components={
        "unet": _unet("unet_ssd_1b", down=[1, [2, 2], [4, 4]], up=[[4, 4, 10], [2, 1, 1], 1]),
        "text_encoder": CLIP_L,
        "text_encoder_2": OPENCLIP_BIGG,
    },
    aliases=("ssd1b", "segmind-ssd-1b"),
    repositories=("segmind/SSD-1B",),
    layouts=(sgm,),
    hints=("ssd-1b", "SSD-1B"),
    inputs=INPUTS,
)
VEGA = Base(
    name="segmind-vega",
    title="Segmind Vega",
    components={
        "unet": _unet("unet_segmind_vega", down=[1, [1, 1], [2, 2]], up=[[2, 2, 2], [1, 1, 1], 1]),
        "text_encoder": CLIP_L,
        "text_encoder_2": OPENCLIP_BIGG,
    },
    aliases=("vega",),
    repositories=("segmind/Segmind-Vega",),
    layouts=(sgm,),
    hints=("segmind-vega", "Segmind-Vega"),
    inputs=INPUTS,
)
