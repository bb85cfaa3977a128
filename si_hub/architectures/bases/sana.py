"""Sana: 1.0 of two sizes, in all its resolutions; 1.5 and Sprint, which have norms besides in their attention.

Configurations: as diffusers' script converts them.
"""

from __future__ import annotations

from typing import Any

from si_hub.architectures.bases.contract import Base, Blueprint
from si_hub.architectures.bases.encoders import GEMMA2_2B, GEMMA2_PREFIXES
from si_hub.architectures.layouts.pixart import sana

_SMALL: dict[str, Any] = {
    "num_attention_heads": 36, "num_layers": 28, "num_cross_attention_heads": 16, "cross_attention_head_dim": 72,
    "cross_attention_dim": 1152,
}  # fmt: skip
_NORMS: dict[str, Any] = {"qk_norm": "rms_norm_across_heads"}
_GUIDED = _NORMS | {"guidance_embeds": True}


def _components(table: str, config: dict[str, Any]) -> dict[str, Blueprint]:
    transformer = Blueprint(table, "diffusers", "SanaTransformer2DModel", config)
    return {"transformer": transformer, "text_encoder": GEMMA2_2B}


LARGE = Base(
    name="sana-1.6b",
    title="Sana 1.6B",
    components=_components("transformer_sana_1_6b", {}),
    aliases=("sana", "sana-1600m"),
    repositories=(
        "Efficient-Large-Model/Sana_1600M_1024px_diffusers", "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers",
        "Efficient-Large-Model/Sana_1600M_512px_diffusers", "Efficient-Large-Model/Sana_1600M_2Kpx_BF16_diffusers",
        "Efficient-Large-Model/Sana_1600M_4Kpx_BF16_diffusers",
    ),
    layouts=(sana,),
    prefixes=GEMMA2_PREFIXES,
    hints=("sana", "sana-1600m", "sana-1.6b"),
    inferred="sana",
)  # fmt: skip
SMALL = Base(
    name="sana-0.6b",
    title="Sana 0.6B",
    components=_components("transformer_sana_0_6b", _SMALL),
    aliases=("sana-600m",),
    repositories=(
        "Efficient-Large-Model/Sana_600M_1024px_diffusers", "Efficient-Large-Model/Sana_600M_512px_diffusers",
    ),
    layouts=(sana,),
    prefixes=GEMMA2_PREFIXES,
    hints=("sana", "sana-600m", "sana-0.6b"),
    inferred="sana",
)  # fmt: skip
LARGE_1_5 = Base(
    name="sana1.5-1.6b",
    title="Sana 1.5 1.6B",
    components=_components("transformer_sana15_1_6b", _NORMS),
    aliases=("sana1.5",),
    repositories=("Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers",),
    layouts=(sana,),
    prefixes=GEMMA2_PREFIXES,
    hints=("sana1.5-1.6b",),
)
LARGEST_1_5 = Base(
    name="sana1.5-4.8b",
    title="Sana 1.5 4.8B",
    components=_components("transformer_sana15_4_8b", _NORMS | {"num_layers": 60}),
    aliases=("sana-4.8b",),
    repositories=("Efficient-Large-Model/SANA1.5_4.8B_1024px_diffusers",),
    layouts=(sana,),
    prefixes=GEMMA2_PREFIXES,
    hints=("sana1.5-4.8b",),
)
SPRINT_LARGE = Base(
    name="sana-sprint-1.6b",
    title="Sana Sprint 1.6B",
    components=_components("transformer_sana_sprint_1_6b", _GUIDED),
    aliases=("sana-sprint",),
    repositories=("Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers",),
    layouts=(sana,),
    prefixes=GEMMA2_PREFIXES,
    hints=("sana-sprint", "sana-sprint-1.6b"),
)
SPRINT_SMALL = Base(
    name="sana-sprint-0.6b",
    title="Sana Sprint 0.6B",
    components=_components("transformer_sana_sprint_0_6b", _SMALL | _GUIDED),
    repositories=("Efficient-Large-Model/Sana_Sprint_0.6B_1024px_diffusers",),
    layouts=(sana,),
    prefixes=GEMMA2_PREFIXES,
    hints=("sana-sprint", "sana-sprint-0.6b"),
)
