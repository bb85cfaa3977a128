"""HiDream-I1: Full, Dev and Fast are built alike, with four experts in every block. Its own names are diffusers'.

Configuration: as ComfyUI builds it; 17.1 billion parameters.
"""

from __future__ import annotations

from si_hub.architectures.bases.contract import Base, Blueprint

BASE = Base(
    name="hidream-i1",
    title="HiDream-I1",
    components={
        "transformer": Blueprint(
            "transformer_hidream", "diffusers", "HiDreamImageTransformer2DModel",
            {"patch_size": 2, "in_channels": 16, "out_channels": 16, "caption_channels": [4096, 4096],
             "axes_dims_rope": [64, 32, 32], "llama_layers": [*range(32), *[31] * 16]},
        )
    },
    aliases=("hidream", "hidream-i1-full", "hidream-i1-dev", "hidream-i1-fast"),
    repositories=("HiDream-ai/HiDream-I1-Full", "HiDream-ai/HiDream-I1-Dev", "HiDream-ai/HiDream-I1-Fast"),
    hints=("hidream$", "hidream_i1", "hidream-i1", "HiDream-I1"),
    inferred="hidream",
)  # fmt: skip
