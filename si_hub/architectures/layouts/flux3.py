"""FLUX.3 under the names of Black Forest Labs' code: blocks for pictures, for pictures given, for text, and for all."""

from __future__ import annotations

from si_hub.architectures.layouts.table import Table, from_table


def _block(theirs: str, ours: str) -> Table:
    return {
        **{f"{theirs}.{letter}_proj": f"{ours}.attn.to_{letter}" for letter in "qkv"},
        f"{theirs}.attn_out": f"{ours}.attn.to_out.0",
        f"{theirs}.norm.query_norm": f"{ours}.attn.norm_q",
        f"{theirs}.norm.key_norm": f"{ours}.attn.norm_k",
        f"{theirs}.mlp_in": f"{ours}.ff.linear_in",
        f"{theirs}.mlp_out": f"{ours}.ff.linear_out",
    }


_MODES = ("image", "image_cond")
_MODULATIONS = tuple(
    f"{stage}_stream_modulations.{name}" for stage in ("early", "single") for name in (*_MODES, "txt")
)  # fmt: skip
_FLUX3: Table = {
    **{f"emb_in.{name}": f"x_embedders.{name}" for name in _MODES},
    "txt_in": "context_embedder",
    "time_in.in_layer": "timestep_embedder.linear_1",
    "time_in.out_layer": "timestep_embedder.linear_2",
    "ref_time_in.in_layer": "target_timestep_embedder.linear_1",
    "ref_time_in.out_layer": "target_timestep_embedder.linear_2",
    **{f"{name}.lin": f"{name}.linear" for name in _MODULATIONS},
    **_block("content_mode_blocks.image.{}", "mode_blocks.image.{}"),
    **_block("content_mode_blocks.image_cond.{}", "mode_blocks.image_cond.{}"),
    **_block("txt_mode_blocks.{}", "txt_mode_blocks.{}"),
    **_block("single_blocks.{}", "single_transformer_blocks.{}"),
    "final_layer.image.linear": "proj_out",
    "final_layer.image.adaLN_modulation.1": "~norm_out.linear",
}

#: Names of Black Forest Labs' FLUX.3 code.
bfl3 = from_table("bfl3", _FLUX3, ("Flux3",))
