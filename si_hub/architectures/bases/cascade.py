"""Stable Cascade: its stage C, the prior, in both sizes. Adapters of Stability's own trainer have numbers for names."""

from __future__ import annotations

from typing import Any

from si_hub.architectures.bases.contract import Base, Blueprint
from si_hub.architectures.bases.encoders import OPENCLIP_BIGG


def _prior(table: str, **config: Any) -> Blueprint:
    shared = {"clip_text_in_channels": 1280, "clip_image_in_channels": 768, "switch_level": [False]}
    return Blueprint(table, "diffusers", "StableCascadeUNet", config | shared)


_PREFIXES = {"lora_prior_te_": "text_encoder"}

BASE = Base(
    name="stable-cascade",
    title="Stable Cascade",
    components={"prior": _prior("prior_stable_cascade"), "text_encoder": OPENCLIP_BIGG},
    aliases=("cascade", "wuerstchen-v3"),
    repositories=("stabilityai/stable-cascade-prior", "stabilityai/stable-cascade"),
    prefixes=_PREFIXES,
    hints=("stable-cascade", "Stable Cascade", "stable_cascade"),
    modelspec="stable-cascade-v1",
    inferred="stable_cascade_stage_c",
)
LITE = Base(
    name="stable-cascade-lite",
    title="Stable Cascade lite",
    components={
        "prior": _prior(
            "prior_stable_cascade_lite", conditioning_dim=1536, block_out_channels=[1536, 1536],
            num_attention_heads=[24, 24], down_num_layers_per_block=[4, 12], up_num_layers_per_block=[12, 4],
        ),
        "text_encoder": OPENCLIP_BIGG,
    },
    aliases=("cascade-lite",),
    repositories=("stabilityai/stable-cascade-prior",),
    prefixes=_PREFIXES,
    hints=("stable-cascade", "Stable Cascade", "stable_cascade"),
)  # fmt: skip
