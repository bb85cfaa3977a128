"""Qwen-Image 2.1, which makes pictures and edits them. Its own names are diffusers'.

Configuration: the class's defaults; 7.1 billion parameters.
"""

from __future__ import annotations

from si_hub.architectures.bases.contract import Base, Blueprint
from si_hub.architectures.layouts.qwen_image21 import qwen_image21

BASE = Base(
    name="qwen-image-2.1",
    title="Qwen-Image 2.1",
    components={"transformer": Blueprint("transformer_qwen_image21", "diffusers", "QwenImage21Transformer2DModel", {})},
    aliases=("qwen-image21", "qwen-image-2.1-turbo"),
    repositories=("Qwen/Qwen-Image-2.1", "Qwen/Qwen-Image-2.1-Turbo"),
    layouts=(qwen_image21,),
    hints=("qwen_image_2_1", "Qwen-Image-2.1"),
    inferred="qwen-image-2.1",
)
