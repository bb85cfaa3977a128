"""PixArt under the names of its own code, and Sana under those of NVIDIA's, which goes on from it."""

from __future__ import annotations

from si_hub.architectures.layouts.table import Table, from_table

_BLOCK = "transformer_blocks.{}"
_COMMON: Table = {
    "y_embedder.y_proj.fc1": "caption_projection.linear_1",
    "y_embedder.y_proj.fc2": "caption_projection.linear_2",
    "blocks.{}.scale_shift_table": f"{_BLOCK}.scale_shift_table",
    "blocks.{}.attn.qkv": [f"{_BLOCK}.attn1.to_{letter}" for letter in "qkv"],
    "blocks.{}.attn.proj": f"{_BLOCK}.attn1.to_out.0",
    "blocks.{}.cross_attn.q_linear": f"{_BLOCK}.attn2.to_q",
    "blocks.{}.cross_attn.kv_linear": [f"{_BLOCK}.attn2.to_{letter}" for letter in "kv"],
    "blocks.{}.cross_attn.proj": f"{_BLOCK}.attn2.to_out.0",
    "final_layer.linear": "proj_out",
    "final_layer.scale_shift_table": "scale_shift_table",
}
_PIXART: Table = {
    **_COMMON,
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "adaln_single.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "adaln_single.emb.timestep_embedder.linear_2",
    "csize_embedder.mlp.0": "adaln_single.emb.resolution_embedder.linear_1",
    "csize_embedder.mlp.2": "adaln_single.emb.resolution_embedder.linear_2",
    "ar_embedder.mlp.0": "adaln_single.emb.aspect_ratio_embedder.linear_1",
    "ar_embedder.mlp.2": "adaln_single.emb.aspect_ratio_embedder.linear_2",
    "t_block.1": "adaln_single.linear",
    "blocks.{}.mlp.fc1": f"{_BLOCK}.ff.net.0.proj",
    "blocks.{}.mlp.fc2": f"{_BLOCK}.ff.net.2",
}
_SANA: Table = {
    **_COMMON,
    "x_embedder.proj": "patch_embed.proj",
    # Sprint's releases, which are told the guidance, have their embedders in another place.
    "t_embedder.mlp.0": ("time_embed.emb.timestep_embedder.linear_1", "time_embed.timestep_embedder.linear_1"),
    "t_embedder.mlp.2": ("time_embed.emb.timestep_embedder.linear_2", "time_embed.timestep_embedder.linear_2"),
    "cfg_embedder.mlp.0": "time_embed.guidance_embedder.linear_1",
    "cfg_embedder.mlp.2": "time_embed.guidance_embedder.linear_2",
    "t_block.1": "time_embed.linear",
    **{f"blocks.{{}}.attn.{letter}_norm": f"{_BLOCK}.attn1.norm_{letter}" for letter in "qk"},
    **{f"blocks.{{}}.cross_attn.{letter}_norm": f"{_BLOCK}.attn2.norm_{letter}" for letter in "qk"},
    "attention_y_norm": "caption_norm",
    "blocks.{}.mlp.inverted_conv.conv": f"{_BLOCK}.ff.conv_inverted",
    "blocks.{}.mlp.depth_conv.conv": f"{_BLOCK}.ff.conv_depth",
    "blocks.{}.mlp.point_conv.conv": f"{_BLOCK}.ff.conv_point",
}

#: Names of PixArt's code.
pixart = from_table("pixart", _PIXART, ("PixArt",))
#: Names of NVIDIA's Sana code.
sana = from_table("sana", _SANA, ("SanaTransformer2D",))
