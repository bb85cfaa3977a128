"""The names of Tencent's HunyuanVideo, 1.5 and HunyuanImage 2.1 code, and ComfyUI's: those in Flux's words."""

from __future__ import annotations

from si_hub.architectures.layouts.table import Table, from_table

_ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v")
_ADDED = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
_REFINER = "context_embedder.token_refiner.refiner_blocks.{}"


def _time(theirs: str, ours: str) -> Table:
    """An embedder of times, which diffusers keeps in another place for each of the models."""
    places = ("time_text_embed", "time_embed", "time_guidance_embed")
    return {
        f"{theirs}.mlp.{index}": tuple(f"{place}.{ours}.linear_{number}" for place in places)
        for index, number in ((0, 1), (2, 2))
    }


_TENCENT: Table = {
    "img_in.proj": "x_embedder.proj",
    "txt_in.input_embedder": "context_embedder.proj_in",
    "txt_in.t_embedder.mlp.0": "context_embedder.time_text_embed.timestep_embedder.linear_1",
    "txt_in.t_embedder.mlp.2": "context_embedder.time_text_embed.timestep_embedder.linear_2",
    "txt_in.c_embedder.linear_1": "context_embedder.time_text_embed.text_embedder.linear_1",
    "txt_in.c_embedder.linear_2": "context_embedder.time_text_embed.text_embedder.linear_2",
    "txt_in.individual_token_refiner.blocks.{}.norm1": f"{_REFINER}.norm1",
    "txt_in.individual_token_refiner.blocks.{}.norm2": f"{_REFINER}.norm2",
    "txt_in.individual_token_refiner.blocks.{}.self_attn_qkv": [f"{_REFINER}.{name}" for name in _ATTENTION],
    "txt_in.individual_token_refiner.blocks.{}.self_attn_proj": f"{_REFINER}.attn.to_out.0",
    "txt_in.individual_token_refiner.blocks.{}.mlp.fc1": f"{_REFINER}.ff.net.0.proj",
    "txt_in.individual_token_refiner.blocks.{}.mlp.fc2": f"{_REFINER}.ff.net.2",
    "txt_in.individual_token_refiner.blocks.{}.adaLN_modulation.1": f"{_REFINER}.norm_out.linear",
    "byt5_in.layernorm": "context_embedder_2.norm",
    **{f"byt5_in.fc{number}": f"context_embedder_2.linear_{number}" for number in (1, 2, 3)},
    "vision_in.proj.0": "image_embedder.norm_in",
    "vision_in.proj.1": "image_embedder.linear_1",
    "vision_in.proj.3": "image_embedder.linear_2",
    "vision_in.proj.4": "image_embedder.norm_out",
    "cond_type_embedding": "cond_type_embed",
    **_time("time_in", "timestep_embedder"),
    **_time("time_r_in", "timestep_embedder_r"),
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    **_time("guidance_in", "guidance_embedder"),
    "double_blocks.{}.img_mod.linear": "transformer_blocks.{}.norm1.linear",
    "double_blocks.{}.txt_mod.linear": "transformer_blocks.{}.norm1_context.linear",
    "double_blocks.{}.img_attn_qkv": [f"transformer_blocks.{{}}.{name}" for name in _ATTENTION],
    "double_blocks.{}.txt_attn_qkv": [f"transformer_blocks.{{}}.{name}" for name in _ADDED],
    "double_blocks.{}.img_attn_proj": "transformer_blocks.{}.attn.to_out.0",
    "double_blocks.{}.txt_attn_proj": "transformer_blocks.{}.attn.to_add_out",
    "double_blocks.{}.img_attn_q_norm": "transformer_blocks.{}.attn.norm_q",
    "double_blocks.{}.img_attn_k_norm": "transformer_blocks.{}.attn.norm_k",
    "double_blocks.{}.txt_attn_q_norm": "transformer_blocks.{}.attn.norm_added_q",
    "double_blocks.{}.txt_attn_k_norm": "transformer_blocks.{}.attn.norm_added_k",
    "double_blocks.{}.img_mlp.fc1": "transformer_blocks.{}.ff.net.0.proj",
    "double_blocks.{}.img_mlp.fc2": "transformer_blocks.{}.ff.net.2",
    "double_blocks.{}.txt_mlp.fc1": "transformer_blocks.{}.ff_context.net.0.proj",
    "double_blocks.{}.txt_mlp.fc2": "transformer_blocks.{}.ff_context.net.2",
    "single_blocks.{}.modulation.linear": "single_transformer_blocks.{}.norm.linear",
    "single_blocks.{}.linear1": [f"single_transformer_blocks.{{}}.{name}" for name in (*_ATTENTION, "proj_mlp")],
    "single_blocks.{}.linear2": "single_transformer_blocks.{}.proj_out",
    "single_blocks.{}.q_norm": "single_transformer_blocks.{}.attn.norm_q",
    "single_blocks.{}.k_norm": "single_transformer_blocks.{}.attn.norm_k",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "~norm_out.linear",
}
#: HunyuanVideo 1.5's code has three matrices where the others have one.
_SPLIT: Table = {
    **{name: part for name, part in _TENCENT.items() if not name.endswith(("img_attn_qkv", "txt_attn_qkv"))},
    **{f"double_blocks.{{}}.img_attn_{letter}": f"transformer_blocks.{{}}.attn.to_{letter}" for letter in "qkv"},
    **{f"double_blocks.{{}}.txt_attn_{letter}": f"transformer_blocks.{{}}.attn.add_{letter}_proj" for letter in "qkv"},
}
#: What ComfyUI changes in those names, in this order.
_FLUX_WORDS = (
    ("txt_in.t_embedder.mlp.0", "txt_in.t_embedder.in_layer"),
    ("txt_in.t_embedder.mlp.2", "txt_in.t_embedder.out_layer"),
    ("txt_in.c_embedder.linear_1", "txt_in.c_embedder.in_layer"),
    ("txt_in.c_embedder.linear_2", "txt_in.c_embedder.out_layer"),
    ("_mod.linear", "_mod.lin"), ("modulation.linear", "modulation.lin"),
    ("attn_qkv", "attn.qkv"), ("attn_proj", "attn.proj"), ("mlp.fc1", "mlp.0"), ("mlp.fc2", "mlp.2"),
    ("_attn_q_norm", "_attn.norm.query_norm"), ("_attn_k_norm", "_attn.norm.key_norm"),
    (".q_norm", ".norm.query_norm"), (".k_norm", ".norm.key_norm"),
    ("_in.mlp.0", "_in.in_layer"), ("_in.mlp.2", "_in.out_layer"),
)  # fmt: skip


def _in_flux_words(name: str) -> str:
    for theirs, changed in _FLUX_WORDS:
        name = name.replace(theirs, changed)
    return name


_CLASSES = ("HunyuanVideoTransformer", "HunyuanVideoFramepack", "HunyuanVideo15", "HunyuanImage")

#: Names of Tencent's code.
tencent = from_table("tencent", _TENCENT, _CLASSES)
#: Names that ComfyUI gives the same modules.
tencent_comfy = from_table("tencent-comfy", {_in_flux_words(name): part for name, part in _TENCENT.items()}, _CLASSES)
#: Names of HunyuanVideo 1.5's code.
tencent_split = from_table("tencent-split", _SPLIT, ("HunyuanVideo15",))
