"""ERNIE-Image, and its Turbo, which is built alike. Its own names are diffusers'.

Configuration: that of the releases, whose text encoder is Ministral 3B; 8.0 billion parameters.
"""

from __future__ import annotations

from si_hub.architectures.bases.contract import Base, Blueprint

BASE = Base(
    name="ernie-image",
    title="ERNIE-Image",
    components={
        "transformer": Blueprint(
            "transformer_ernie_image", "diffusers", "ErnieImageTransformer2DModel",
            {"hidden_size": 4096, "num_attention_heads": 32, "num_layers": 36, "ffn_hidden_size": 12288,
             "text_in_dim": 3072},
        )
    },
    aliases=("ernie", "ernie-image-turbo"),
    repositories=("baidu/ERNIE-Image", "baidu/ERNIE-Image-Turbo"),
    hints=("ernie_image", "ERNIE-Image", "Ernie"),
)  # fmt: skip
