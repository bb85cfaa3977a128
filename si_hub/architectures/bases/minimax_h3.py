"""MiniMax-H3, which makes video with sound.

Configuration: the class's defaults; 33.1 billion parameters.
"""

from __future__ import annotations

from si_hub.architectures.bases.contract import Base, Blueprint
from si_hub.architectures.layouts.minimax_h3 import minimax_h3

BASE = Base(
    name="minimax-h3",
    title="MiniMax-H3",
    components={"transformer": Blueprint("transformer_minimax_h3", "diffusers", "MiniMaxH3Transformer3DModel", {})},
    aliases=("minimaxh3",),
    repositories=("MiniMaxAI/MiniMax-H3",),
    layouts=(minimax_h3,),
    hints=("minimax_h3", "MiniMax-H3", "MiniMax H3"),
    inferred="minimax-h3",
)
