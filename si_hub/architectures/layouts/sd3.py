"""MMDiT: the names of Stability's Stable Diffusion 3 code, of 3.5 too."""

from __future__ import annotations

from si_hub.architectures.layouts.table import Table, from_table

_ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v")
_ADDED = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
_MMDIT: Table = {
    "x_embedder.proj": "pos_embed.proj",
    "context_embedder": "context_embedder",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "joint_blocks.{}.x_block.adaLN_modulation.1": "transformer_blocks.{}.norm1.linear",
    # Only the last block's is a final modulation, of two parts instead of six.
    "joint_blocks.{}.context_block.adaLN_modulation.1": "~transformer_blocks.{}.norm1_context.linear",
    "joint_blocks.{}.x_block.attn.qkv": [f"transformer_blocks.{{}}.{name}" for name in _ATTENTION],
    "joint_blocks.{}.x_block.attn2.qkv": [f"transformer_blocks.{{}}.attn2.to_{name}" for name in "qkv"],
    "joint_blocks.{}.context_block.attn.qkv": [f"transformer_blocks.{{}}.{name}" for name in _ADDED],
    "joint_blocks.{}.x_block.attn.proj": "transformer_blocks.{}.attn.to_out.0",
    "joint_blocks.{}.x_block.attn2.proj": "transformer_blocks.{}.attn2.to_out.0",
    "joint_blocks.{}.context_block.attn.proj": "transformer_blocks.{}.attn.to_add_out",
    "joint_blocks.{}.x_block.attn.ln_q": "transformer_blocks.{}.attn.norm_q",
    "joint_blocks.{}.x_block.attn.ln_k": "transformer_blocks.{}.attn.norm_k",
    "joint_blocks.{}.x_block.attn2.ln_q": "transformer_blocks.{}.attn2.norm_q",
    "joint_blocks.{}.x_block.attn2.ln_k": "transformer_blocks.{}.attn2.norm_k",
    "joint_blocks.{}.context_block.attn.ln_q": "transformer_blocks.{}.attn.norm_added_q",
    "joint_blocks.{}.context_block.attn.ln_k": "transformer_blocks.{}.attn.norm_added_k",
    "joint_blocks.{}.x_block.mlp.fc1": "transformer_blocks.{}.ff.net.0.proj",
    "joint_blocks.{}.x_block.mlp.fc2": "transformer_blocks.{}.ff.net.2",
    "joint_blocks.{}.context_block.mlp.fc1": "transformer_blocks.{}.ff_context.net.0.proj",
    "joint_blocks.{}.context_block.mlp.fc2": "transformer_blocks.{}.ff_context.net.2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "~norm_out.linear",
}

#: Names of Stability's Stable Diffusion 3 code.
mmdit = from_table("mmdit", _MMDIT, ("SD3",))
