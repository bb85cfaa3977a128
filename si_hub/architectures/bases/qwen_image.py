"""Qwen-Image, 2512, and Edit with its later editions (2509, 2511), which have the same denoiser.

Configuration: the class's defaults; 20.4 billion parameters. Its own names are diffusers'.
"""

from __future__ import annotations

from si_hub.architectures.bases.contract import Base, Blueprint

BASE = Base(
    name="qwen-image",
    title="Qwen-Image and Qwen-Image-Edit",
    components={"transformer": Blueprint("transformer_qwen_image", "diffusers", "QwenImageTransformer2DModel", {})},
    aliases=("qwen", "qwen-image-2512", "qwen-image-edit", "qwen-image-edit-2509", "qwen-image-edit-2511"),
    repositories=(
        "Qwen/Qwen-Image", "Qwen/Qwen-Image-2512", "Qwen/Qwen-Image-Edit", "Qwen/Qwen-Image-Edit-2509",
        "Qwen/Qwen-Image-Edit-2511",
    ),
    hints=("qwen_image", "Qwen-Image", "Qwen"),
    inputs=("img_in",),
)  # fmt: skip
