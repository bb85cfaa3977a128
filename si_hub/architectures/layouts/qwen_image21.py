"""Qwen-Image 2.1 as ComfyUI keeps it: under its own names, but with both halves of the gated layer in one."""

from __future__ import annotations

from si_hub.architectures.layouts.table import Table, from_table

#: Modules that have the same name on both sides.
_KEPT = (
    "img_in", "txt_in.text_norm", "txt_in.in_layer", "txt_in.out_layer", "modulation.{}", "norm_out.linear", "proj_out",
    *(f"time_text_embed.timestep_embedder.linear_{number}" for number in (1, 2)),
    *(f"transformer_blocks.{{}}.attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0", "norm_q", "norm_k")),
    "transformer_blocks.{}.img_mlp.out",
)  # fmt: skip
_COMFY: Table = {
    **{name: name for name in _KEPT},
    "transformer_blocks.{}.img_mlp.gate_up": [
        f"transformer_blocks.{{}}.img_mlp.{name}" for name in ("gate_layer", "proj")
    ],
}

#: Names that ComfyUI keeps.
qwen_image21 = from_table("qwen-image-2.1-comfy", _COMFY, ("QwenImage21",))
