"""AuraFlow, and Pony V7, which is it trained on.

Configuration: the class's defaults, as diffusers' script converts it; 6.8 billion parameters. Releases differ in how
many positions they have learned.
"""

from __future__ import annotations

from si_hub.architectures.bases.contract import Base, Blueprint
from si_hub.architectures.layouts.auraflow import fal

BASE = Base(
    name="auraflow",
    title="AuraFlow and Pony V7",
    components={"transformer": Blueprint("transformer_auraflow", "diffusers", "AuraFlowTransformer2DModel", {})},
    aliases=("aura-flow", "auraflow-v0.3", "pony-v7"),
    repositories=("fal/AuraFlow-v0.3", "fal/AuraFlow-v0.2", "fal/AuraFlow", "purplesmartai/pony-v7-base"),
    layouts=(fal,),
    hints=("auraflow", "AuraFlow", "Pony V7", "PonyV7"),
    inferred="auraflow",
    inputs=("pos_embed.pos_embed",),
)
