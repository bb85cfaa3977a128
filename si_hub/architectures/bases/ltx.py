"""LTX-Video, and LTX-2 that makes sound as well. The connectors of LTX-2's text encoder are left out."""

from __future__ import annotations

from typing import Any

from si_hub.architectures.bases.contract import Base, Blueprint
from si_hub.architectures.layouts.ltx import ltx, ltx2

_GATED: dict[str, Any] = {
    "gated_attn": True, "cross_attn_mod": True, "audio_gated_attn": True, "audio_cross_attn_mod": True,
    "use_prompt_embeddings": False, "perturbed_attn": True,
}  # fmt: skip


def _transformer(table: str, class_name: str, **config: Any) -> Blueprint:
    return Blueprint(table, "diffusers", class_name, config)


VIDEO_2B = Base(
    name="ltx-video-2b",
    title="LTX-Video 2B",
    components={"transformer": _transformer("transformer_ltx_video_2b", "LTXVideoTransformer3DModel")},
    aliases=("ltx-video", "ltxv", "ltxv-2b"),
    repositories=("Lightricks/LTX-Video",),
    layouts=(ltx,),
    hints=("LTXV$", "ltx-video", "ltxv"),
    inferred="ltx-video",
)
VIDEO_13B = Base(
    name="ltx-video-13b",
    title="LTX-Video 13B",
    components={
        "transformer": _transformer(
            "transformer_ltx_video_13b", "LTXVideoTransformer3DModel", num_attention_heads=32, attention_head_dim=128,
            cross_attention_dim=4096, num_layers=48,
        )
    },
    aliases=("ltxv-13b",),
    repositories=("Lightricks/LTX-Video-0.9.7-dev",),
    layouts=(ltx,),
    hints=("LTXV$", "ltx-video", "ltxv"),
    inferred="ltx-video-0.9.7",
)  # fmt: skip
LTX_2 = Base(
    name="ltx-2",
    title="LTX-2",
    components={"transformer": _transformer("transformer_ltx2", "LTX2VideoTransformer3DModel")},
    aliases=("ltx2", "ltxv-2", "ltx-2.0"),
    repositories=("Lightricks/LTX-2",),
    layouts=(ltx2,),
    hints=("ltx2$", "ltx-2$", "LTXV2", "LTX-2$"),
    inferred="ltx2",
)
LTX_2_3 = Base(
    name="ltx-2.3",
    title="LTX-2.3",
    components={"transformer": _transformer("transformer_ltx2_3", "LTX2VideoTransformer3DModel", **_GATED)},
    aliases=("ltx2.3",),
    repositories=("Lightricks/LTX-2.3",),
    layouts=(ltx2,),
    hints=("ltx2$", "ltx2.3", "ltx-2.3", "LTX-2.3", "LTXV 2.3"),
)
LTX_2_5 = Base(
    name="ltx-2.5",
    title="LTX-2.5",
    components={
        "transformer": _transformer("transformer_ltx2_5", "LTX2VideoTransformer3DModel", **_GATED, ff_bias=False)
    },
    aliases=("ltx2.5",),
    repositories=("Lightricks/LTX-2.5",),
    layouts=(ltx2,),
    hints=("ltx2$", "ltx2.5", "ltx-2.5", "LTX-2.5"),
)
