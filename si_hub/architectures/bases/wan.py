"""Wan: 2.1, 2.2 with two transformers that take turns, and VACE.

Versions, and text or image to video, have the same blocks in one size: most adapters are told apart by metadata alone.
"""

from __future__ import annotations

from typing import Any

from si_hub.architectures.bases.contract import Base, Blueprint
from si_hub.architectures.layouts.wan import wan

_SMALL: dict[str, Any] = {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960}
#: The class's defaults are the 14B model.
_LARGE: dict[str, Any] = {"num_attention_heads": 40, "num_layers": 40, "ffn_dim": 13824}
#: One trainer writes these for all of them.
_ANY = ("wan$", "wan2.1$")
_PREFIXES = {"transformer_2.": "transformer_2"}


def _transformer(table: str, class_name: str = "WanTransformer3DModel", **config: Any) -> Blueprint:
    return Blueprint(table, "diffusers", class_name, config)


_T2V_1_3B = _transformer("transformer_wan_t2v_1_3b", **_SMALL)
_T2V_14B = _transformer("transformer_wan_t2v_14b", **_LARGE)
_I2V_14B_2_2 = _transformer("transformer_wan22_i2v_14b", **_LARGE, in_channels=36)

T2V_1_3B = Base(
    name="wan21-t2v-1.3b",
    title="Wan 2.1 T2V 1.3B",
    components={"transformer": _T2V_1_3B},
    aliases=("wan21-1.3b", "wan2.1-t2v-1.3b", "wan2.1-1.3b"),
    repositories=("Wan-AI/Wan2.1-T2V-1.3B-Diffusers",),
    layouts=(wan,),
    hints=(*_ANY, "wan_2.1", "Wan Video 1.3B t2v"),
    inferred="wan-t2v-1.3B",
)
T2V_14B = Base(
    name="wan21-t2v-14b",
    title="Wan 2.1 T2V 14B",
    components={"transformer": _T2V_14B},
    aliases=("wan21-14b", "wan2.1-t2v-14b", "wan2.1-14b"),
    repositories=("Wan-AI/Wan2.1-T2V-14B-Diffusers",),
    layouts=(wan,),
    hints=(*_ANY, "wan_2.1", "Wan Video 14B t2v"),
    inferred="wan-t2v-14B",
)
I2V_14B = Base(
    name="wan21-i2v-14b",
    title="Wan 2.1 I2V 14B",
    components={
        "transformer": _transformer(
            "transformer_wan21_i2v_14b", **_LARGE, in_channels=36, image_dim=1280, added_kv_proj_dim=5120
        )
    },
    aliases=("wan2.1-i2v-14b", "wan21-i2v-14b-480p", "wan21-i2v-14b-720p"),
    repositories=("Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers"),
    layouts=(wan,),
    hints=(*_ANY, "wan_2.1", "Wan Video 14B i2v"),
    inferred="wan-i2v-14B",
)
T2V_A14B = Base(
    name="wan22-t2v-a14b",
    title="Wan 2.2 T2V A14B",
    components={"transformer": _T2V_14B, "transformer_2": _T2V_14B},
    aliases=("wan22-t2v-14b", "wan2.2-t2v-a14b", "wan2.2-t2v-14b"),
    repositories=("Wan-AI/Wan2.2-T2V-A14B-Diffusers",),
    layouts=(wan,),
    prefixes=_PREFIXES,
    hints=(*_ANY, "wan_2.2_14b", "Wan Video 2.2 T2V-A14B"),
)
I2V_A14B = Base(
    name="wan22-i2v-a14b",
    title="Wan 2.2 I2V A14B",
    components={"transformer": _I2V_14B_2_2, "transformer_2": _I2V_14B_2_2},
    aliases=("wan22-i2v-14b", "wan2.2-i2v-a14b", "wan2.2-i2v-14b"),
    repositories=("Wan-AI/Wan2.2-I2V-A14B-Diffusers",),
    layouts=(wan,),
    prefixes=_PREFIXES,
    hints=(*_ANY, "wan_2.2_14b", "Wan Video 2.2 I2V-A14B"),
)
TI2V_5B = Base(
    name="wan22-ti2v-5b",
    title="Wan 2.2 TI2V 5B",
    components={
        "transformer": _transformer(
            "transformer_wan22_ti2v_5b", num_attention_heads=24, num_layers=30, ffn_dim=14336,
            in_channels=48, out_channels=48,
        )
    },
    aliases=("wan22-5b", "wan2.2-ti2v-5b", "wan2.2-5b"),
    repositories=("Wan-AI/Wan2.2-TI2V-5B-Diffusers",),
    layouts=(wan,),
    hints=(*_ANY, "wan_2.2_5b", "Wan Video 2.2 TI2V-5B"),
)  # fmt: skip
VACE_1_3B = Base(
    name="wan21-vace-1.3b",
    title="Wan 2.1 VACE 1.3B",
    components={
        "transformer": _transformer(
            "transformer_wan21_vace_1_3b", "WanVACETransformer3DModel", **_SMALL, vace_in_channels=96,
            vace_layers=[*range(0, 30, 2)],
        )
    },
    aliases=("wan-vace-1.3b", "wan2.1-vace-1.3b"),
    repositories=("Wan-AI/Wan2.1-VACE-1.3B-diffusers",),
    layouts=(wan,),
    hints=("Wan2.1-VACE-1.3B",),
    inferred="wan-vace-1.3B",
)  # fmt: skip
VACE_14B = Base(
    name="wan21-vace-14b",
    title="Wan 2.1 VACE 14B",
    components={
        "transformer": _transformer(
            "transformer_wan21_vace_14b", "WanVACETransformer3DModel", **_LARGE, vace_in_channels=96,
            vace_layers=[*range(0, 40, 5)],
        )
    },
    aliases=("wan-vace", "wan-vace-14b", "wan2.1-vace-14b"),
    repositories=("Wan-AI/Wan2.1-VACE-14B-diffusers",),
    layouts=(wan,),
    hints=("Wan2.1-VACE-14B",),
    inferred="wan-vace-14B",
)  # fmt: skip
