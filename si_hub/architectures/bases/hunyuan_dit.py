"""Hunyuan-DiT; from version 1.2 on without a style and the picture's size.

Configuration: that of Tencent's ``DiT-g/2``; 1.5 billion parameters.
"""

from __future__ import annotations

from si_hub.architectures.bases.contract import Base, Blueprint
from si_hub.architectures.layouts.hunyuan_dit import hunyuan_dit

BASE = Base(
    name="hunyuan-dit",
    title="Hunyuan-DiT",
    components={
        "transformer": Blueprint(
            "transformer_hunyuan_dit", "diffusers", "HunyuanDiT2DModel",
            {"num_layers": 40, "hidden_size": 1408, "mlp_ratio": 4.3637, "in_channels": 4, "patch_size": 2,
             "sample_size": 128},
        )
    },
    aliases=("hunyuandit", "hunyuan-dit-1.1", "hunyuan-dit-1.2"),
    repositories=(
        "Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers", "Tencent-Hunyuan/HunyuanDiT-v1.1-Diffusers",
        "Tencent-Hunyuan/HunyuanDiT-Diffusers",
    ),
    layouts=(hunyuan_dit,),
    hints=("hunyuan-dit", "HunyuanDiT", "Hunyuan 1"),
    optional=("time_extra_emb.style_embedder",),
    inputs=("time_extra_emb.extra_embedder.linear_1",),
)  # fmt: skip
