"""Kandinsky 5: Lite for pictures and for video, and Pro. Its own names are diffusers'.

Configurations: as Kandinsky's code has them for every release; 6.0, 2.0 and 19.3 billion parameters.
"""

from __future__ import annotations

from typing import Any

from si_hub.architectures.bases.contract import Base, Blueprint

#: Trainers write these for all of them.
_HINTS = ("kandinsky5$", "Kandinsky-5$")
_INPUTS = ("visual_embeddings.in_layer",)


def _transformer(table: str, **config: Any) -> dict[str, Blueprint]:
    sizes = {"in_visual_dim": 16, "out_visual_dim": 16, **config}
    return {"transformer": Blueprint(table, "diffusers", "Kandinsky5Transformer3DModel", sizes)}


IMAGE_LITE = Base(
    name="kandinsky5-image-lite",
    title="Kandinsky 5 Image Lite",
    components=_transformer(
        "transformer_kandinsky5_image_lite", model_dim=2560, ff_dim=10240, num_visual_blocks=50,
        axes_dims=[32, 48, 48],
    ),
    aliases=("kandinsky5-t2i-lite", "kandinsky5-i2i-lite"),
    repositories=(
        "kandinskylab/Kandinsky-5.0-T2I-Lite-sft-Diffusers", "kandinskylab/Kandinsky-5.0-T2I-Lite-pretrain-Diffusers",
        "kandinskylab/Kandinsky-5.0-I2I-Lite-sft-Diffusers", "kandinskylab/Kandinsky-5.0-I2I-Lite-pretrain-Diffusers",
    ),
    hints=(*_HINTS, "Kandinsky-5.0-T2I-Lite", "Kandinsky-5.0-I2I-Lite"),
    inputs=_INPUTS,
)  # fmt: skip
VIDEO_LITE = Base(
    name="kandinsky5-video-lite",
    title="Kandinsky 5 Video Lite",
    components=_transformer("transformer_kandinsky5_video_lite", model_dim=1792, ff_dim=7168, visual_cond=True),
    aliases=("kandinsky5", "kandinsky5-t2v-lite", "kandinsky5-i2v-lite"),
    repositories=(
        "kandinskylab/Kandinsky-5.0-T2V-Lite-sft-5s-Diffusers", "kandinskylab/Kandinsky-5.0-T2V-Lite-sft-10s-Diffusers",
    ),
    hints=(*_HINTS, "Kandinsky-5.0-T2V-Lite", "Kandinsky-5.0-I2V-Lite"),
    inputs=_INPUTS,
)  # fmt: skip
VIDEO_PRO = Base(
    name="kandinsky5-video-pro",
    title="Kandinsky 5 Video Pro",
    components=_transformer(
        "transformer_kandinsky5_video_pro", model_dim=4096, ff_dim=16384, time_dim=1024, num_text_blocks=4,
        num_visual_blocks=60, axes_dims=[32, 48, 48], visual_cond=True,
    ),
    aliases=("kandinsky5-pro", "kandinsky5-t2v-pro", "kandinsky5-i2v-pro"),
    repositories=(
        "kandinskylab/Kandinsky-5.0-T2V-Pro-sft-5s-Diffusers", "kandinskylab/Kandinsky-5.0-I2V-Pro-sft-5s-Diffusers",
    ),
    hints=(*_HINTS, "Kandinsky-5.0-T2V-Pro", "Kandinsky-5.0-I2V-Pro"),
    inputs=_INPUTS,
)  # fmt: skip
