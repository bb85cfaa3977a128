"""Ideogram 4. Adapters are for the transformer that reads the prompt, not for the one that does not.

Configuration: the class's defaults; 9.3 billion parameters.
"""

from __future__ import annotations

from si_hub.architectures.bases.contract import Base, Blueprint
from si_hub.architectures.layouts.ideogram4 import ideogram4

BASE = Base(
    name="ideogram4",
    title="Ideogram 4",
    components={"transformer": Blueprint("transformer_ideogram4", "diffusers", "Ideogram4Transformer2DModel", {})},
    aliases=("ideogram-4", "ideogram", "ideogram-v4"),
    repositories=("ideogram-ai/ideogram-v4", "ideogram-ai/ideogram-4-nf4"),
    layouts=(ideogram4,),
    prefixes={"conditional_transformer.": "transformer"},
    hints=("ideogram4", "Ideogram-4", "Ideogram$", "Ideogram 4.0"),
)
