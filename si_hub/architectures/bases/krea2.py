"""Krea 2, and its Turbo, which is built alike.

Configuration: the class's defaults; 12.8 billion parameters.
"""

from __future__ import annotations

from si_hub.architectures.bases.contract import Base, Blueprint
from si_hub.architectures.layouts.krea2 import krea2

BASE = Base(
    name="krea2",
    title="Krea 2",
    components={"transformer": Blueprint("transformer_krea2", "diffusers", "Krea2Transformer2DModel", {})},
    aliases=("krea-2", "krea-2-raw", "krea-2-turbo", "krea2-raw", "krea2-turbo"),
    repositories=("krea/Krea-2-Raw", "krea/Krea-2-Turbo"),
    layouts=(krea2,),
    hints=("krea2", "Krea-2", "Krea 2"),
    inferred="krea2",
)
