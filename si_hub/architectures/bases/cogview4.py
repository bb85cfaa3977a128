"""CogView4; adapters for it carry diffusers' names."""

from __future__ import annotations

from si_hub.architectures.bases.contract import Base, Blueprint

BASE = Base(
    name="cogview4",
    title="CogView4",
    components={
        "transformer": Blueprint(
            "transformer_cogview4", "diffusers", "CogView4Transformer2DModel",
            {"num_layers": 28, "attention_head_dim": 128, "num_attention_heads": 32},
        )
    },
    aliases=("cogview4-6b",),
    repositories=("zai-org/CogView4-6B",),
    hints=("cogview4", "CogView4"),
    inputs=("patch_embed.proj",),
)  # fmt: skip
