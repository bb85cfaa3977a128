"""Hunyuan-DiT under the names of Tencent's code.

Without norm2 and norm3 of the blocks, which are the other way round there: their names are those of diffusers too.
"""

from __future__ import annotations

from si_hub.architectures.layouts.table import Table, from_table

_BLOCK = "blocks.{}"
_KEPT = (
    "text_embedding_padding", "blocks.{}.skip_norm", "blocks.{}.skip_linear",
)  # fmt: skip
_POOLER = ("positional_embedding", "q_proj", "k_proj", "v_proj", "c_proj")
_HUNYUAN_DIT: Table = {
    "x_embedder.proj": "pos_embed.proj",
    "mlp_t5.0": "text_embedder.linear_1",
    "mlp_t5.2": "text_embedder.linear_2",
    "t_embedder.mlp.0": "time_extra_emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_extra_emb.timestep_embedder.linear_2",
    "extra_embedder.0": "time_extra_emb.extra_embedder.linear_1",
    "extra_embedder.2": "time_extra_emb.extra_embedder.linear_2",
    "style_embedder": "time_extra_emb.style_embedder",
    **{f"pooler.{name}": f"time_extra_emb.pooler.{name}" for name in _POOLER},
    **{name: name for name in _KEPT},
    f"{_BLOCK}.norm1": f"{_BLOCK}.norm1.norm",
    f"{_BLOCK}.default_modulation.1": f"{_BLOCK}.norm1.linear",
    f"{_BLOCK}.attn1.Wqkv": [f"{_BLOCK}.attn1.to_{letter}" for letter in "qkv"],
    f"{_BLOCK}.attn2.q_proj": f"{_BLOCK}.attn2.to_q",
    f"{_BLOCK}.attn2.kv_proj": [f"{_BLOCK}.attn2.to_{letter}" for letter in "kv"],
    **{f"{_BLOCK}.attn{number}.q_norm": f"{_BLOCK}.attn{number}.norm_q" for number in (1, 2)},
    **{f"{_BLOCK}.attn{number}.k_norm": f"{_BLOCK}.attn{number}.norm_k" for number in (1, 2)},
    **{f"{_BLOCK}.attn{number}.out_proj": f"{_BLOCK}.attn{number}.to_out.0" for number in (1, 2)},
    f"{_BLOCK}.mlp.fc1": f"{_BLOCK}.ff.net.0.proj",
    f"{_BLOCK}.mlp.fc2": f"{_BLOCK}.ff.net.2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "~norm_out.linear",
}

#: Names of Tencent's Hunyuan-DiT code.
hunyuan_dit = from_table("hunyuan-dit", _HUNYUAN_DIT, ("HunyuanDiT",))
