"""Lumina Image 2.0.

Configuration: the class's defaults, but for Gemma 2's width; 2.6 billion parameters.
"""

from __future__ import annotations

from si_hub.architectures.bases.contract import Base, Blueprint
from si_hub.architectures.bases.encoders import GEMMA2_2B, GEMMA2_PREFIXES
from si_hub.architectures.layouts.lumina2 import lumina2

BASE = Base(
    name="lumina2",
    title="Lumina Image 2.0",
    components={
        "transformer": Blueprint(
            "transformer_lumina2", "diffusers", "Lumina2Transformer2DModel", {"cap_feat_dim": 2304}
        ),
        "text_encoder": GEMMA2_2B,
    },
    aliases=("lumina-2", "lumina-image-2.0", "lumina-image-2"),
    repositories=("Alpha-VLLM/Lumina-Image-2.0",),
    layouts=(lumina2,),
    prefixes=GEMMA2_PREFIXES,
    hints=("lumina2", "lumina-2", "Lumina"),
    inferred="lumina2",
)  # fmt: skip
