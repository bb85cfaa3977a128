"""Anima: the 2B transformer of Cosmos Predict2, with an adapter of its own between it and Qwen3."""

from __future__ import annotations

from si_hub.architectures.bases.contract import Base, Blueprint
from si_hub.architectures.bases.cosmos import PREDICT2_2B_TRANSFORMER
from si_hub.architectures.layouts.cosmos import predict2

_QWEN3_0_6B = Blueprint(
    "qwen3_0_6b", "transformers", "Qwen3Model",
    {"vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
     "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128},
)  # fmt: skip

BASE = Base(
    name="anima",
    title="Anima",
    components={
        "transformer": PREDICT2_2B_TRANSFORMER,
        "text_encoder": _QWEN3_0_6B,
        "text_conditioner": Blueprint("text_conditioner_anima", "diffusers", "AnimaTextConditioner", {}),
    },
    aliases=("anima-preview",),
    repositories=("circlestone-labs/Anima",),
    layouts=(predict2,),
    prefixes={
        **dict.fromkeys(
            ("diffusion_model.llm_adapter.", "model.diffusion_model.llm_adapter.", "lora_unet_llm_adapter_",
             "lycoris_llm_adapter_", "llm_adapter.", "net.llm_adapter.", "text_conditioner."),
            "text_conditioner",
        ),
        **dict.fromkeys(
            ("text_encoders.qwen3_06b.transformer.model.", "qwen3_06b.transformer.model."), "text_encoder"
        ),
        "net.": "transformer",
    },
    hints=("anima", "Anima"),
)  # fmt: skip
