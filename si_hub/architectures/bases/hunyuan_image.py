"""HunyuanImage 2.1. Its distilled release has two embedders more.

Configuration: as diffusers' script converts it; 17.4 billion parameters.
"""

from __future__ import annotations

from si_hub.architectures.bases.contract import Base, Blueprint
from si_hub.architectures.layouts.hunyuan import tencent, tencent_comfy

BASE = Base(
    name="hunyuan-image-2.1",
    title="HunyuanImage 2.1",
    components={
        "transformer": Blueprint(
            "transformer_hunyuan_image", "diffusers", "HunyuanImageTransformer2DModel",
            {"text_embed_2_dim": 1472, "guidance_embeds": True, "use_meanflow": True},
        )
    },
    aliases=("hunyuan-image", "hunyuanimage", "hunyuanimage-2.1", "hunyuan-image-2.1-distilled"),
    repositories=(
        "hunyuanvideo-community/HunyuanImage-2.1-Diffusers",
        "hunyuanvideo-community/HunyuanImage-2.1-Distilled-Diffusers",
    ),
    layouts=(tencent, tencent_comfy),
    hints=("hunyuan-image", "hunyuan-image-2.1", "HunyuanImage"),
    optional=("time_guidance_embed.guidance_embedder.", "time_guidance_embed.timestep_embedder_r."),
)  # fmt: skip
