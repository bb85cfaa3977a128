"""Wan under the names of Alibaba's code, which its successors (VACE, SkyReels V2 and others) kept."""

from __future__ import annotations

from si_hub.architectures.layouts.table import Table, from_table


def _block(ours: str) -> Table:
    """A block; the original's norm3 stands before cross attention, where diffusers counts the second."""
    attention = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
    image = {"k_img": "add_k_proj", "v_img": "add_v_proj", "norm_k_img": "norm_added_k"}
    return {
        f"{ours}.modulation": f"{ours}.scale_shift_table",
        f"{ours}.norm3": f"{ours}.norm2",
        f"{ours}.ffn.0": f"{ours}.ffn.net.0.proj",
        f"{ours}.ffn.2": f"{ours}.ffn.net.2",
        **{f"{ours}.self_attn.{name}": f"{ours}.attn1.{target}" for name, target in attention.items()},
        **{f"{ours}.cross_attn.{name}": f"{ours}.attn2.{target}" for name, target in (attention | image).items()},
    }


_WAN: Table = {
    "patch_embedding": "patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    **_block("blocks.{}"),
    **_block("vace_blocks.{}"),
    "vace_blocks.{}.before_proj": "vace_blocks.{}.proj_in",
    "vace_blocks.{}.after_proj": "vace_blocks.{}.proj_out",
    "vace_patch_embedding": "vace_patch_embedding",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}

#: Names of Alibaba's Wan code.
wan = from_table("wan", _WAN, ("WanTransformer3DModel", "WanVACE", "SkyReelsV2", "ChronoEdit"))
