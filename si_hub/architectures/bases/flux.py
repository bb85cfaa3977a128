"""FLUX.1: [dev], and [schnell], which is the same without the embedder of its guidance."""

from __future__ import annotations

from si_hub.architectures.bases.contract import Base, Blueprint
from si_hub.architectures.bases.encoders import CLIP_L, T5_XXL
from si_hub.architectures.layouts.flux import bfl, xlabs

BASE = Base(
    name="flux",
    title="FLUX.1",
    components={
        "transformer": Blueprint(
            "transformer_flux", "diffusers", "FluxTransformer2DModel", {"guidance_embeds": True}
        ),
        "text_encoder": CLIP_L,
        "text_encoder_2": T5_XXL,
    },
    aliases=(
        "flux1", "flux.1", "flux-1", *(f"{one}-{release}" for one in ("flux", "flux1", "flux-1", "flux.1")
                                       for release in ("dev", "schnell", "kontext", "kontext-dev", "krea", "krea-dev")),
    ),
    repositories=("black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-schnell"),
    layouts=(bfl, xlabs),
    # T5 goes by the place it has in Stable Diffusion 3; OneTrainer alone calls it te2.
    prefixes=dict.fromkeys(
        ("lora_te3_", "oft_te3_", "text_encoders.t5xxl.transformer.", "t5xxl.transformer."), "text_encoder_2"
    ),
    hints=("flux$", "flux1", "flux-dev", "flux-schnell", "flux-kontext"),
    modelspec="flux-1-dev",
    kohya="flux1",
    implementation="https://github.com/black-forest-labs/flux",
    inferred="flux",
    optional=("time_text_embed.guidance_embedder.",),
    inputs=("x_embedder",),
)  # fmt: skip
