"""Ideogram 4 under the names of Ideogram's code: diffusers', but for fused attention."""

from __future__ import annotations

from si_hub.architectures.layouts.table import Table, from_table

#: Modules that have the same name on both sides.
_KEPT = (
    "input_proj", "llm_cond_norm", "llm_cond_proj", "t_embedding.mlp_in", "t_embedding.mlp_out", "adaln_proj",
    "embed_image_indicator", "final_layer.linear", "final_layer.adaln_modulation",
    *(f"layers.{{}}.attention.norm_{letter}" for letter in "qk"),
    *(f"layers.{{}}.feed_forward.w{number}" for number in (1, 2, 3)),
    *(f"layers.{{}}.{kind}_norm{number}" for kind in ("attention", "ffn") for number in (1, 2)),
    "layers.{}.adaln_modulation",
)  # fmt: skip
_IDEOGRAM4: Table = {
    **{name: name for name in _KEPT},
    "layers.{}.attention.qkv": [f"layers.{{}}.attention.to_{letter}" for letter in "qkv"],
    "layers.{}.attention.o": "layers.{}.attention.to_out.0",
}

#: Names of Ideogram's code.
ideogram4 = from_table("ideogram4", _IDEOGRAM4, ("Ideogram4",))
