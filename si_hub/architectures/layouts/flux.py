"""Flux under the names of Black Forest Labs' code, and of XLabs' trainer."""

from __future__ import annotations

from si_hub.architectures.layouts.table import Table, from_table

_ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v")
_ADDED = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
_BFL: Table = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "double_blocks.{}.img_mod.lin": "transformer_blocks.{}.norm1.linear",
    "double_blocks.{}.txt_mod.lin": "transformer_blocks.{}.norm1_context.linear",
    "double_blocks.{}.img_attn.qkv": [f"transformer_blocks.{{}}.{name}" for name in _ATTENTION],
    "double_blocks.{}.txt_attn.qkv": [f"transformer_blocks.{{}}.{name}" for name in _ADDED],
    "double_blocks.{}.img_attn.proj": "transformer_blocks.{}.attn.to_out.0",
    "double_blocks.{}.txt_attn.proj": "transformer_blocks.{}.attn.to_add_out",
    "double_blocks.{}.img_attn.norm.query_norm": "transformer_blocks.{}.attn.norm_q",
    "double_blocks.{}.img_attn.norm.key_norm": "transformer_blocks.{}.attn.norm_k",
    "double_blocks.{}.txt_attn.norm.query_norm": "transformer_blocks.{}.attn.norm_added_q",
    "double_blocks.{}.txt_attn.norm.key_norm": "transformer_blocks.{}.attn.norm_added_k",
    "double_blocks.{}.img_mlp.0": "transformer_blocks.{}.ff.net.0.proj",
    "double_blocks.{}.img_mlp.2": "transformer_blocks.{}.ff.net.2",
    "double_blocks.{}.txt_mlp.0": "transformer_blocks.{}.ff_context.net.0.proj",
    "double_blocks.{}.txt_mlp.2": "transformer_blocks.{}.ff_context.net.2",
    "single_blocks.{}.linear1": [f"single_transformer_blocks.{{}}.{name}" for name in (*_ATTENTION, "proj_mlp")],
    "single_blocks.{}.linear2": "single_transformer_blocks.{}.proj_out",
    "single_blocks.{}.modulation.lin": "single_transformer_blocks.{}.norm.linear",
    "single_blocks.{}.norm.query_norm": "single_transformer_blocks.{}.attn.norm_q",
    "single_blocks.{}.norm.key_norm": "single_transformer_blocks.{}.attn.norm_k",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "~norm_out.linear",
    # Chroma's, whose one network gives every block's modulation.
    "distilled_guidance_layer.in_proj": "distilled_guidance_layer.in_proj",
    "distilled_guidance_layer.layers.{}.in_layer": "distilled_guidance_layer.layers.{}.linear_1",
    "distilled_guidance_layer.layers.{}.out_layer": "distilled_guidance_layer.layers.{}.linear_2",
    "distilled_guidance_layer.norms.{}": "distilled_guidance_layer.norms.{}",
    "distilled_guidance_layer.out_proj": "distilled_guidance_layer.out_proj",
}
#: The trainer's attention processors: 1 is the image's side, 2 the text's; single blocks train linear1's q, k and v.
_XLABS: Table = {
    "double_blocks.{}.processor.qkv_lora1": _BFL["double_blocks.{}.img_attn.qkv"],
    "double_blocks.{}.processor.qkv_lora2": _BFL["double_blocks.{}.txt_attn.qkv"],
    "double_blocks.{}.processor.proj_lora1": _BFL["double_blocks.{}.img_attn.proj"],
    "double_blocks.{}.processor.proj_lora2": _BFL["double_blocks.{}.txt_attn.proj"],
    "single_blocks.{}.processor.qkv": [f"single_transformer_blocks.{{}}.{name}" for name in _ATTENTION],
    "single_blocks.{}.processor.proj": _BFL["single_blocks.{}.linear2"],
}

#: Names of Black Forest Labs' Flux code, which Chroma keeps.
bfl = from_table("bfl", _BFL, ("FluxTransformer", "Chroma"))
#: Names of XLabs' Flux trainer.
xlabs = from_table("xlabs", _XLABS, ("FluxTransformer",), whole=False)
