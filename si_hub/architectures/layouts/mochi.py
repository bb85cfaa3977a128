"""Mochi under the names of Genmo's code: x is the picture's side, y the text's."""

from __future__ import annotations

from si_hub.architectures.layouts.table import Table, from_table

_BLOCK = "transformer_blocks.{}"
_MOCHI: Table = {
    "x_embedder.proj": "patch_embed.proj",
    "t_embedder.mlp.0": "time_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_embed.timestep_embedder.linear_2",
    "t5_y_embedder.to_kv": "time_embed.pooler.to_kv",
    "t5_y_embedder.to_q": "time_embed.pooler.to_q",
    "t5_y_embedder.to_out": "time_embed.pooler.to_out",
    "t5_yproj": "time_embed.caption_proj",
    "pos_frequencies": "pos_frequencies",
    "blocks.{}.mod_x": f"{_BLOCK}.norm1.linear",
    # The last block's text has a scale only.
    "blocks.{}.mod_y": (f"{_BLOCK}.norm1_context.linear", f"{_BLOCK}.norm1_context.linear_1"),
    "blocks.{}.attn.qkv_x": [f"{_BLOCK}.attn1.to_{name}" for name in "qkv"],
    "blocks.{}.attn.qkv_y": [f"{_BLOCK}.attn1.add_{name}_proj" for name in "qkv"],
    "blocks.{}.attn.q_norm_x": f"{_BLOCK}.attn1.norm_q",
    "blocks.{}.attn.k_norm_x": f"{_BLOCK}.attn1.norm_k",
    "blocks.{}.attn.q_norm_y": f"{_BLOCK}.attn1.norm_added_q",
    "blocks.{}.attn.k_norm_y": f"{_BLOCK}.attn1.norm_added_k",
    "blocks.{}.attn.proj_x": f"{_BLOCK}.attn1.to_out.0",
    "blocks.{}.attn.proj_y": f"{_BLOCK}.attn1.to_add_out",
    "blocks.{}.mlp_x.w1": f"^{_BLOCK}.ff.net.0.proj",
    "blocks.{}.mlp_x.w2": f"{_BLOCK}.ff.net.2",
    "blocks.{}.mlp_y.w1": f"^{_BLOCK}.ff_context.net.0.proj",
    "blocks.{}.mlp_y.w2": f"{_BLOCK}.ff_context.net.2",
    "final_layer.mod": "~norm_out.linear",
    "final_layer.linear": "proj_out",
}

#: Names of Genmo's Mochi code.
mochi = from_table("mochi", _MOCHI, ("Mochi",))
