"""HunyuanVideo: from text, from a picture, and FramePack, which is it with more inputs.

Configuration: the class's defaults, as diffusers' script converts ``HYVideo-T/2-cfgdistill``; 12.8 billion parameters.
From a picture, one release has 33 input channels and no guidance embedder.
"""

from __future__ import annotations

from si_hub.architectures.bases.contract import Base, Blueprint
from si_hub.architectures.layouts.hunyuan import tencent, tencent_comfy

BASE = Base(
    name="hunyuan-video",
    title="HunyuanVideo",
    components={
        "transformer": Blueprint("transformer_hunyuan_video", "diffusers", "HunyuanVideoTransformer3DModel", {})
    },
    aliases=("hunyuanvideo", "hunyuan-video-t2v"),
    repositories=("hunyuanvideo-community/HunyuanVideo", "hunyuanvideo-community/HunyuanVideo-I2V"),
    layouts=(tencent, tencent_comfy),
    hints=("hunyuan_video", "hunyuan-video", "Hunyuan Video", "framepack"),
    inferred="hunyuan-video",
    optional=("time_text_embed.guidance_embedder.",),
    inputs=("x_embedder.proj",),
)
