"""What the UNets of Stable Diffusion have in common."""

from __future__ import annotations

from typing import Any

from si_hub.architectures.bases.contract import Blueprint

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
UP_CROSS, UP_PLAIN = "CrossAttnUpBlock2D", "UpBlock2D"
#: Inpainting, editing and depth models have more input channels.
INPUTS = ("conv_in",)


def unet(table: str, **config: Any) -> Blueprint:
    """A UNet that differs from diffusers' defaults, those of Stable Diffusion 1, by ``config``."""
    return Blueprint(table, "diffusers", "UNet2DConditionModel", config)
