"""PixArt-α and PixArt-Σ, which are built alike, but that α is told the picture's size.

Configurations: as diffusers' scripts convert them; α's releases of 512 pixels and fewer are built like Σ.
"""

from __future__ import annotations

from si_hub.architectures.bases.contract import Base, Blueprint
from si_hub.architectures.bases.encoders import T5_XXL
from si_hub.architectures.layouts.pixart import pixart


def _components(table: str, *, told_size: bool) -> dict[str, Blueprint]:
    config = {"caption_channels": 4096, "use_additional_conditions": told_size}
    return {"transformer": Blueprint(table, "diffusers", "PixArtTransformer2DModel", config), "text_encoder": T5_XXL}


#: ComfyUI's name for the third encoder of a pipeline is that of the first here.
_PREFIXES = dict.fromkeys(("text_encoders.t5xxl.transformer.", "t5xxl.transformer."), "text_encoder")

ALPHA = Base(
    name="pixart-alpha",
    title="PixArt-α",
    components=_components("transformer_pixart_alpha", told_size=True),
    aliases=("pixart", "pixart-a", "pixart-xl-2"),
    repositories=("PixArt-alpha/PixArt-XL-2-1024-MS", "PixArt-alpha/PixArt-LCM-XL-2-1024-MS"),
    layouts=(pixart,),
    prefixes=_PREFIXES,
    hints=("pixart$", "pixart-alpha", "PixArt a"),
)
SIGMA = Base(
    name="pixart-sigma",
    title="PixArt-Σ",
    components=_components("transformer_pixart_sigma", told_size=False),
    aliases=("pixart-e", "pixart-sigma-xl-2"),
    repositories=(
        "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS", "PixArt-alpha/PixArt-Sigma-XL-2-512-MS",
        "PixArt-alpha/PixArt-Sigma-XL-2-2K-MS", "PixArt-alpha/PixArt-Sigma-XL-2-256x256",
    ),
    layouts=(pixart,),
    prefixes=_PREFIXES,
    hints=("pixart$", "pixart-sigma", "PixArt E"),
)  # fmt: skip
