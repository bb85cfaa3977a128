"""MiniMax-H3 under the names of MiniMax's code, whose fused attention has all queries first once it is loaded.

Its shards on the Hub have the rows of every head together, which names and shapes do not show.
"""

from __future__ import annotations

from si_hub.architectures.layouts.table import Table, from_table


def _block(theirs: str, ours: str) -> Table:
    return {
        f"{theirs}.norm1": f"{ours}.norm1",
        f"{theirs}.norm2": f"{ours}.norm2",
        f"{theirs}.attn.qkv_proj": [f"{ours}.attn.to_{letter}" for letter in "qkv"],
        f"{theirs}.attn.out_proj": f"{ours}.attn.to_out.0",
        f"{theirs}.attn.q_norm": f"{ours}.attn.norm_q",
        f"{theirs}.attn.k_norm": f"{ours}.attn.norm_k",
        f"{theirs}.mlp.fc1": f"^{ours}.ff.net.0.proj",
        f"{theirs}.mlp.fc2": f"{ours}.ff.net.2",
        f"{theirs}.adaln_proj.linear": f"{ours}.adaln_proj.linear",
    }


_MINIMAX_H3: Table = {
    "video_patch_proj": "proj_in",
    "audio_patch_proj": "audio_proj_in",
    "condition_proj": "context_embedder",
    "time_embedder.proj_in": "time_embedder.linear_1",
    "time_embedder.proj_out": "time_embedder.linear_2",
    **_block("token_refiner.blocks.{}", "token_refiner.refiner_blocks.{}"),
    "token_refiner.final_norm": "token_refiner.final_norm",
    **_block("blocks.{}", "transformer_blocks.{}"),
    "final_layer.norm": "norm_out.norm",
    "final_layer.adaln_proj.linear": "norm_out.linear",
    "final_layer.video_out": "proj_out",
    "final_layer.audio_out": "audio_proj_out",
}

#: Names of MiniMax's code.
minimax_h3 = from_table("minimax-h3", _MINIMAX_H3, ("MiniMaxH3",))
