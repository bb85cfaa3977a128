"""Krea 2 under the names of Krea's code."""

from __future__ import annotations

from si_hub.architectures.layouts.table import Table, from_table

_ATTENTION = {
    "wq": "to_q", "wk": "to_k", "wv": "to_v", "wo": "to_out.0", "gate": "to_gate", "qknorm.qnorm": "norm_q",
    "qknorm.knorm": "norm_k",
}  # fmt: skip


def _block(theirs: str, ours: str) -> Table:
    return {
        f"{theirs}.prenorm": f"{ours}.norm1",
        f"{theirs}.postnorm": f"{ours}.norm2",
        **{f"{theirs}.attn.{name}": f"{ours}.attn.{target}" for name, target in _ATTENTION.items()},
        **{f"{theirs}.mlp.{name}": f"{ours}.ff.{name}" for name in ("gate", "up", "down")},
    }


#: Without the blocks' ``mod.lin``, which is diffusers' table of six rows in one.
_KREA2: Table = {
    "first": "img_in",
    "tmlp.0": "time_embed.linear_1",
    "tmlp.2": "time_embed.linear_2",
    "tproj.1": "time_mod_proj",
    "txtmlp.0": "txt_in.norm",
    "txtmlp.1": "txt_in.linear_1",
    "txtmlp.3": "txt_in.linear_2",
    **_block("txtfusion.layerwise_blocks.{}", "text_fusion.layerwise_blocks.{}"),
    "txtfusion.projector": "text_fusion.projector",
    **_block("txtfusion.refiner_blocks.{}", "text_fusion.refiner_blocks.{}"),
    **_block("blocks.{}", "transformer_blocks.{}"),
    "last.norm": "final_layer.norm",
    "last.linear": "final_layer.linear",
    "last.modulation.lin": "final_layer.scale_shift_table",
}

#: Names of Krea's code.
krea2 = from_table("krea2", _KREA2, ("Krea2",))
