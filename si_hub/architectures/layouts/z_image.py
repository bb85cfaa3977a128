"""The names of Z-Image's own checkpoints and of ComfyUI: Lumina's, with fused attention."""

from __future__ import annotations

from si_hub.architectures.layouts.table import Table, from_table

_BLOCKS = ("layers", "noise_refiner", "context_refiner")
#: Modules of a block that have the same name on both sides.
_KEPT = (
    "feed_forward.w1", "feed_forward.w2", "feed_forward.w3", "attention_norm1", "attention_norm2", "ffn_norm1",
    "ffn_norm2", "adaLN_modulation.0",
)  # fmt: skip


def _block(name: str) -> Table:
    block = f"{name}.{{}}"
    return {
        f"{block}.attention.qkv": [f"{block}.attention.to_{letter}" for letter in "qkv"],
        f"{block}.attention.out": f"{block}.attention.to_out.0",
        f"{block}.attention.q_norm": f"{block}.attention.norm_q",
        f"{block}.attention.k_norm": f"{block}.attention.norm_k",
        **{f"{block}.{kept}": f"{block}.{kept}" for kept in _KEPT},
    }


_Z_IMAGE: Table = {
    "x_embedder": "all_x_embedder.2-1",
    **{name: name for name in ("cap_embedder.0", "cap_embedder.1", "t_embedder.mlp.0", "t_embedder.mlp.2")},
    **{name: name for name in ("x_pad_token", "cap_pad_token")},
    **{source: target for name in _BLOCKS for source, target in _block(name).items()},
    "final_layer.linear": "all_final_layer.2-1.linear",
    "final_layer.adaLN_modulation.1": "all_final_layer.2-1.adaLN_modulation.1",
}

#: Names of Z-Image's own checkpoints.
z_image = from_table("z-image", _Z_IMAGE, ("ZImage",))
