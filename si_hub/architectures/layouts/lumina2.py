"""Lumina Image 2.0 under the names of Alpha-VLLM's code, with fused attention: fewer heads for keys and values."""

from __future__ import annotations

from si_hub.architectures.layouts.table import Table, from_table


def _block(block: str, norm: str) -> Table:
    """A block; ``norm`` is what diffusers calls its first norm, which holds the modulation where there is one."""
    return {
        f"{block}.attention.qkv": [f"{block}.attn.to_{letter}" for letter in "qkv"],
        f"{block}.attention.out": f"{block}.attn.to_out.0",
        f"{block}.attention.q_norm": f"{block}.attn.norm_q",
        f"{block}.attention.k_norm": f"{block}.attn.norm_k",
        **{f"{block}.feed_forward.w{number}": f"{block}.feed_forward.linear_{number}" for number in (1, 2, 3)},
        f"{block}.attention_norm1": f"{block}.{norm}",
        f"{block}.attention_norm2": f"{block}.norm2",
        f"{block}.ffn_norm1": f"{block}.ffn_norm1",
        f"{block}.ffn_norm2": f"{block}.ffn_norm2",
        f"{block}.adaLN_modulation.1": f"{block}.norm1.linear",
    }


_LUMINA2: Table = {
    "x_embedder": "x_embedder",
    "cap_embedder.0": "time_caption_embed.caption_embedder.0",
    "cap_embedder.1": "time_caption_embed.caption_embedder.1",
    "t_embedder.mlp.0": "time_caption_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_caption_embed.timestep_embedder.linear_2",
    **_block("layers.{}", "norm1.norm"),
    **_block("noise_refiner.{}", "norm1.norm"),
    **_block("context_refiner.{}", "norm1"),
    "final_layer.adaLN_modulation.1": "norm_out.linear_1",
    "final_layer.linear": "norm_out.linear_2",
}

#: Names of Alpha-VLLM's code.
lumina2 = from_table("lumina2", _LUMINA2, ("Lumina2",))
