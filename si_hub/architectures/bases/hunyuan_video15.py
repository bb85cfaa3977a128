"""HunyuanVideo 1.5: from text, from a picture, of 480 and 720 pixels.

Configuration: the class's defaults, as diffusers' script converts all releases; 8.3 billion parameters. Those distilled
to few steps have an embedder more.
"""

from __future__ import annotations

from si_hub.architectures.bases.contract import Base, Blueprint
from si_hub.architectures.layouts.hunyuan import tencent, tencent_comfy, tencent_split

BASE = Base(
    name="hunyuan-video-1.5",
    title="HunyuanVideo 1.5",
    components={
        "transformer": Blueprint("transformer_hunyuan_video15", "diffusers", "HunyuanVideo15Transformer3DModel", {})
    },
    aliases=("hunyuanvideo-1.5", "hunyuan-video15"),
    repositories=(
        "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v",
        "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-720p_t2v",
    ),
    layouts=(tencent_split, tencent, tencent_comfy),
    hints=("hunyuan_video_1_5", "hunyuan-video-1.5"),
)
