"""Cosmos Predict2 and 2.5 under the names of NVIDIA's code, which Anima's own code kept."""

from __future__ import annotations

from si_hub.architectures.layouts.table import Table, from_table

_BLOCK = "transformer_blocks.{}"
_ATTENTION = {
    "q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "output_proj": "to_out.0", "q_norm": "norm_q",
    "k_norm": "norm_k",
}  # fmt: skip
_PREDICT2: Table = {
    "x_embedder.proj.1": "patch_embed.proj",
    "t_embedder.1.linear_1": "time_embed.t_embedder.linear_1",
    "t_embedder.1.linear_2": "time_embed.t_embedder.linear_2",
    "t_embedding_norm": "time_embed.norm",
    "crossattn_proj.0": "crossattn_proj.0",
    **{f"blocks.{{}}.self_attn.{name}": f"{_BLOCK}.attn1.{target}" for name, target in _ATTENTION.items()},
    **{f"blocks.{{}}.cross_attn.{name}": f"{_BLOCK}.attn2.{target}" for name, target in _ATTENTION.items()},
    **{
        f"blocks.{{}}.adaln_modulation_{name}.{number}": f"{_BLOCK}.norm{place}.linear_{number}"
        for place, name in enumerate(("self_attn", "cross_attn", "mlp"), 1)
        for number in (1, 2)
    },
    "blocks.{}.mlp.layer1": f"{_BLOCK}.ff.net.0.proj",
    "blocks.{}.mlp.layer2": f"{_BLOCK}.ff.net.2",
    "final_layer.adaln_modulation.1": "norm_out.linear_1",
    "final_layer.adaln_modulation.2": "norm_out.linear_2",
    "final_layer.linear": "proj_out",
}

#: Names of NVIDIA's Cosmos Predict2 code.
predict2 = from_table("predict2", _PREDICT2, ("CosmosTransformer3D",))
