"""Tiny pipelines of random weights whose prompts keep their own lengths: with masks, and as lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    Gemma2Config,
    Gemma2Model,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
)

from tests.distill.families import vae

WIDTH = 16
TEXT: dict[str, Any] = {
    "hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 512,
}  # fmt: skip
#: As Qwen's chat template has it, for one user's message.
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"


def tokenizer(length: int) -> Any:
    """One token a byte."""
    letters = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    found = Qwen2Tokenizer(
        vocab={word: index for index, word in enumerate([*letters, *special])}, merges=[], model_max_length=length,
        additional_special_tokens=special[1:],
    )  # fmt: skip
    found.chat_template = CHAT
    return found


def qwen(folder: Path) -> Path:
    """A QwenImagePipeline: a mask beside the text's states, none where all prompts are of one length."""
    torch.manual_seed(0)
    words = tokenizer(256)
    text = {**TEXT, "vocab_size": len(words), "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    seeing = {
        "depth": 1, "hidden_size": WIDTH, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": WIDTH,
        "patch_size": 4, "fullatt_block_indexes": [0],
    }  # fmt: skip
    transformer = QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    autoencoder = AutoencoderKLQwenImage(
        base_dim=12, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=seeing))
    QwenImagePipeline(
        FlowMatchEulerDiscreteScheduler(), autoencoder, encoder, words, transformer
    ).save_pretrained(folder)  # fmt: skip
    return folder


def lumina2(folder: Path) -> Path:
    """A Lumina2Pipeline: prompts are padded to one length, with a mask."""
    torch.manual_seed(0)
    words = tokenizer(256)
    encoder = Gemma2Model(Gemma2Config(**TEXT, vocab_size=len(words), query_pre_attn_scalar=8))
    transformer = Lumina2Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, hidden_size=32, num_layers=2, num_refiner_layers=1,
        num_attention_heads=2, num_kv_heads=1, multiple_of=16, axes_dim_rope=(4, 6, 6), axes_lens=(300, 32, 32),
        cap_feat_dim=WIDTH,
    )  # fmt: skip
    Lumina2Pipeline(
        transformer, FlowMatchEulerDiscreteScheduler(), vae(4), encoder, words
    ).save_pretrained(folder)  # fmt: skip
    return folder


def z_image(folder: Path) -> Path:
    """A ZImagePipeline: lists of latents and of texts, each text of its own length."""
    torch.manual_seed(0)
    words = tokenizer(96)
    encoder = Qwen3Model(Qwen3Config(**TEXT, vocab_size=len(words)))
    transformer = ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=WIDTH,
        axes_dims=[4, 6, 6], axes_lens=[300, 32, 32],
    )  # fmt: skip
    ZImagePipeline(
        FlowMatchEulerDiscreteScheduler(), vae(4), encoder, words, transformer
    ).save_pretrained(folder)  # fmt: skip
    return folder
