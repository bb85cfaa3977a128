"""Z-Image, and its Turbo, which is built alike.

Configuration: the class's defaults; 6.2 billion parameters.
"""

from __future__ import annotations

from si_hub.architectures.bases.contract import Base, Blueprint
from si_hub.architectures.layouts.z_image import z_image

BASE = Base(
    name="z-image",
    title="Z-Image and Z-Image-Turbo",
    components={"transformer": Blueprint("transformer_z_image", "diffusers", "ZImageTransformer2DModel", {})},
    aliases=("zimage", "z-image-base", "z-image-turbo", "zimage-turbo"),
    repositories=("Tongyi-MAI/Z-Image-Turbo", "Tongyi-MAI/Z-Image"),
    layouts=(z_image,),
    hints=("zimage", "z_image", "Z-Image", "ZImage"),
    inferred="z-image-turbo",
)
