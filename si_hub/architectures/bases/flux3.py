"""FLUX.3 [klein] for pictures, and what it was distilled to, which has an embedder more.

Configuration: the class's defaults, whose text is eight layers of an encoder 2560 wide; 5.5 billion parameters.
"""

from __future__ import annotations

from si_hub.architectures.bases.contract import Base, Blueprint
from si_hub.architectures.layouts.flux3 import bfl3

BASE = Base(
    name="flux3-image-klein",
    title="FLUX.3 [klein] Image",
    components={
        "transformer": Blueprint("transformer_flux3_image", "diffusers", "Flux3Transformer2DModel", {"flow_map": True})
    },
    aliases=("flux3", "flux3-klein", "flux-3-image-klein", "flux-3-image-klein-base"),
    repositories=("black-forest-labs/flux-3-image-klein-base", "black-forest-labs/flux-3-image-klein"),
    layouts=(bfl3,),
    hints=("flux3$", "flux-3-image", "flux3_klein"),
    inferred="flux-3",
    optional=("target_timestep_embedder.",),
)
