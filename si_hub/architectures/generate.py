"""Writes the shipped tables: ``python -m si_hub.architectures.generate`` after installing diffusers and transformers.

Models are built on torch's meta device from the public configuration values below, so nothing is downloaded.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from si_hub.architectures.folder import frozen_path
from si_hub.architectures.model import dump_modules, modules_from_shapes

TABLES = Path(__file__).parent / "tables"

_CROSS, _PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
_UP_CROSS, _UP_PLAIN = "CrossAttnUpBlock2D", "UpBlock2D"
_CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}

#: table → (library, class, configuration).
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "clip_l": ("transformers", "CLIPTextModel", _CLIP_L),
    "clip_l_projection": ("transformers", "CLIPTextModelWithProjection", {**_CLIP_L, "projection_dim": 768}),
    # Stable Diffusion 2 takes the penultimate of OpenCLIP-H's 24 layers; diffusers ships the first 23.
    "openclip_h": (
        "transformers", "CLIPTextModel",
        {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16},
    ),
    "openclip_bigg": ("transformers", "CLIPTextModelWithProjection", {**_CLIP_G, "projection_dim": 1280}),
    "t5_xxl": (
        "transformers", "T5EncoderModel",
        {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 32128,
         "feed_forward_proj": "gated-gelu"},
    ),
    "unet_sd15": ("diffusers", "UNet2DConditionModel", {"cross_attention_dim": 768}),
    "unet_sd21": (
        "diffusers", "UNet2DConditionModel",
        {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
    ),
    "unet_sdxl": (
        "diffusers", "UNet2DConditionModel",
        {"block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20],
         "down_block_types": [_PLAIN, _CROSS, _CROSS], "up_block_types": [_UP_CROSS, _UP_CROSS, _UP_PLAIN],
         "transformer_layers_per_block": [1, 2, 10], "use_linear_projection": True, "addition_time_embed_dim": 256,
         "addition_embed_type": "text_time", "projection_class_embeddings_input_dim": 2816},
    ),
    "unet_sdxl_refiner": (
        "diffusers", "UNet2DConditionModel",
        {"block_out_channels": [384, 768, 1536, 1536], "cross_attention_dim": 1280,
         "attention_head_dim": [6, 12, 24, 24], "down_block_types": [_PLAIN, _CROSS, _CROSS, _PLAIN],
         "up_block_types": [_UP_PLAIN, _UP_CROSS, _UP_CROSS, _UP_PLAIN], "transformer_layers_per_block": 4,
         "use_linear_projection": True, "addition_time_embed_dim": 256, "addition_embed_type": "text_time",
         "projection_class_embeddings_input_dim": 2560},
    ),
    "transformer_flux": ("diffusers", "FluxTransformer2DModel", {"guidance_embeds": True}),
    "transformer_sd3": (
        "diffusers", "SD3Transformer2DModel",
        {"sample_size": 128, "num_layers": 24, "attention_head_dim": 64, "num_attention_heads": 24,
         "caption_projection_dim": 1536, "pos_embed_max_size": 192},
    ),
}  # fmt: skip

#: architecture → components, other names people use, prediction type where every release has the same.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "sd15": {
        "components": {"unet": "unet_sd15", "text_encoder": "clip_l"},
        "aliases": ["sd1", "sd14", "stable-diffusion-v1", "stable-diffusion-v1-5"],
    },
    "sd21": {
        "components": {"unet": "unet_sd21", "text_encoder": "openclip_h"},
        "aliases": ["sd2", "sd20", "stable-diffusion-v2", "stable-diffusion-2-1"],
    },
    "sdxl": {
        "components": {"unet": "unet_sdxl", "text_encoder": "clip_l", "text_encoder_2": "openclip_bigg"},
        "aliases": ["sdxl-base", "stable-diffusion-xl", "stable-diffusion-xl-v1-base"],
    },
    "sdxl-refiner": {
        "components": {"unet": "unet_sdxl_refiner", "text_encoder_2": "openclip_bigg"},
        "aliases": ["stable-diffusion-xl-v1-refiner"],
    },
    # FLUX.1 [schnell] is the same without time_text_embed.guidance_embedder.
    "flux": {
        "components": {"transformer": "transformer_flux", "text_encoder": "clip_l", "text_encoder_2": "t5_xxl"},
        "aliases": ["flux1", "flux-dev", "flux-1-dev", "flux-schnell"],
    },
    "sd3": {
        "components": {
            "transformer": "transformer_sd3", "text_encoder": "clip_l_projection",
            "text_encoder_2": "openclip_bigg", "text_encoder_3": "t5_xxl",
        },
        "aliases": ["sd3-medium", "stable-diffusion-3-medium"],
    },
}  # fmt: skip


def shapes_on_meta(library: str, class_name: str, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the state dict of a model that is never given memory."""
    import torch

    room = import_module(library)
    with torch.device("meta"):
        if library == "diffusers":
            model = getattr(room, class_name)(**config)
        else:
            kind = "T5Config" if class_name.startswith("T5") else "CLIPTextConfig"
            model = getattr(room, class_name)(getattr(room, kind)(**config))
    return {frozen_path(name, class_name): tuple(value.shape) for name, value in model.state_dict().items()}


def main() -> None:
    TABLES.mkdir(exist_ok=True)
    for name, (library, class_name, config) in MODELS.items():
        modules = dump_modules(modules_from_shapes(shapes_on_meta(library, class_name, config)))
        _write(TABLES / f"{name}.json", {"class_name": class_name, "modules": modules})
    _write(TABLES / "architectures.json", ARCHITECTURES)


def _write(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
