"""Chroma: FLUX.1 [schnell] with one small network in place of every block's modulation, and with T5 alone.

Configuration: the class's defaults, which are those of Chroma1-HD; 8.9 billion parameters.
"""

from __future__ import annotations

from si_hub.architectures.bases.contract import Base, Blueprint
from si_hub.architectures.layouts.flux import bfl

BASE = Base(
    name="chroma",
    title="Chroma 1",
    components={"transformer": Blueprint("transformer_chroma", "diffusers", "ChromaTransformer2DModel", {})},
    aliases=("chroma1", "chroma1-hd", "chroma1-base"),
    repositories=("lodestones/Chroma1-HD", "lodestones/Chroma1-Base"),
    layouts=(bfl,),
    hints=("chroma", "Chroma", "Chroma1"),
    inferred="chroma",
    inputs=("x_embedder",),
)
