"""FIBO of Bria: Flux's blocks, fewer of them, that read every layer of a language model.

Configuration: that of the release; 8.3 billion parameters. Its own names are diffusers'.
"""

from __future__ import annotations

from si_hub.architectures.bases.contract import Base, Blueprint

BASE = Base(
    name="fibo",
    title="Bria FIBO",
    components={
        "transformer": Blueprint(
            "transformer_fibo", "diffusers", "BriaFiboTransformer2DModel", {"num_layers": 8, "in_channels": 48}
        )
    },
    aliases=("bria-fibo",),
    repositories=("briaai/FIBO",),
    hints=("bria-fibo", "FIBO"),
)
