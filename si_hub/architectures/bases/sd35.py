"""Stable Diffusion 3.5: medium, whose first blocks attend twice, and large with its turbo.

Configurations: as diffusers' script reads them off the checkpoints, where there are as many heads as blocks.
"""

from __future__ import annotations

from typing import Any

from si_hub.architectures.bases.contract import Base, Blueprint
from si_hub.architectures.bases.encoders import CLIP_L_PROJECTION, OPENCLIP_BIGG, T5_XXL
from si_hub.architectures.layouts.sd3 import mmdit

#: Those that do not say the size; ai-toolkit's do not even say that it is 3.5.
_HINTS = ("stable-diffusion-v3.5", "stable-diffusion-3-5", "stable-diffusion-3.5", "SD 3.5", "sd_3")


def _sd35(size: str, *, blocks: int, repositories: tuple[str, ...], **config: Any) -> Base:
    """One size; ``blocks`` of as many heads of 64."""
    config |= {
        "sample_size": 128, "num_layers": blocks, "attention_head_dim": 64, "num_attention_heads": blocks,
        "caption_projection_dim": 64 * blocks, "qk_norm": "rms_norm",
    }  # fmt: skip
    return Base(
        name=f"sd35-{size}",
        title=f"Stable Diffusion 3.5 {size}",
        components={
            "transformer": Blueprint(f"transformer_sd35_{size}", "diffusers", "SD3Transformer2DModel", config),
            "text_encoder": CLIP_L_PROJECTION,
            "text_encoder_2": OPENCLIP_BIGG,
            "text_encoder_3": T5_XXL,
        },
        aliases=(f"sd3.5-{size}", f"sd-3.5-{size}", f"stable-diffusion-3.5-{size}"),
        repositories=repositories,
        layouts=(mmdit,),
        hints=(
            *_HINTS, f"5-{size}", f"SD 3.5 {size.capitalize()}", f"stable-diffusion-3-5-{size}",
            f"stable-diffusion-3.5-{size}",
        ),
        modelspec=f"stable-diffusion-3.5-{size}",
        kohya=f"sd3.5_{size}",
        inferred=f"sd35_{size}",
        inputs=("pos_embed.proj",),
    )  # fmt: skip


MEDIUM = _sd35(
    "medium", blocks=24, repositories=("stabilityai/stable-diffusion-3.5-medium",),
    pos_embed_max_size=384, dual_attention_layers=tuple(range(13)),
)  # fmt: skip
LARGE = _sd35(
    "large", blocks=38, pos_embed_max_size=192,
    repositories=("stabilityai/stable-diffusion-3.5-large", "stabilityai/stable-diffusion-3.5-large-turbo"),
)  # fmt: skip
