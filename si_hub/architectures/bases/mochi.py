"""Mochi 1."""

from __future__ import annotations

from si_hub.architectures.bases.contract import Base, Blueprint
from si_hub.architectures.layouts.mochi import mochi

BASE = Base(
    name="mochi",
    title="Mochi 1",
    components={"transformer": Blueprint("transformer_mochi", "diffusers", "MochiTransformer3DModel", {})},
    aliases=("mochi-1", "mochi-1-preview"),
    repositories=("genmo/mochi-1-preview",),
    layouts=(mochi,),
    hints=("mochi", "Mochi"),
    inferred="mochi-1-preview",
)
