"""Text encoders that several base models share."""

from __future__ import annotations

from si_hub.architectures.bases.contract import Blueprint

_CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}

CLIP_L = Blueprint("clip_l", "transformers", "CLIPTextModel", _CLIP_L)
CLIP_L_PROJECTION = Blueprint(
    "clip_l_projection", "transformers", "CLIPTextModelWithProjection", {**_CLIP_L, "projection_dim": 768}
)
OPENCLIP_BIGG = Blueprint(
    "openclip_bigg", "transformers", "CLIPTextModelWithProjection", {**_CLIP_G, "projection_dim": 1280}
)
T5_XXL = Blueprint(
    "t5_xxl", "transformers", "T5EncoderModel",
    {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 32128,
     "feed_forward_proj": "gated-gelu"},
)  # fmt: skip
#: Its class's defaults.
GEMMA2_2B = Blueprint("gemma2_2b", "transformers", "Gemma2Model", {})
#: Where ComfyUI keeps it.
GEMMA2_PREFIXES = dict.fromkeys(
    ("text_encoders.gemma2_2b.transformer.model.", "gemma2_2b.transformer.model."), "text_encoder"
)
