"""Tiny pipelines of random weights with transformers for denoisers, and models tuned by a little noise."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

WIDTH = 16
LETTERS = "abcdefgh"


def tokenizer() -> Any:
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=8)


def clip(kind: type[Any]) -> Any:
    return kind(
        CLIPTextConfig(
            vocab_size=18, hidden_size=WIDTH, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=8, projection_dim=WIDTH, bos_token_id=16, eos_token_id=17,
        )
    )  # fmt: skip


def t5() -> tuple[Any, Any]:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{letter}", -1.0) for letter in LETTERS)]
    config = T5Config(
        vocab_size=len(pieces), d_model=2 * WIDTH, d_kv=8, d_ff=24, num_layers=1, num_heads=2, dropout_rate=0.0
    )
    return T5EncoderModel(config), T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=6)


def vae(channels: int) -> Any:
    return AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=channels,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, layers_per_block=1, sample_size=16,
        shift_factor=0.0,
    )  # fmt: skip


def flux(folder: Path, *, guidance: bool = True) -> Path:
    """A FluxPipeline, with the guidance as an input of the transformer or not."""
    torch.manual_seed(0)
    text_encoder_2, tokenizer_2 = t5()
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=2 * WIDTH, pooled_projection_dim=WIDTH, axes_dims_rope=(4, 6, 6), guidance_embeds=guidance,
    )  # fmt: skip
    FluxPipeline(
        FlowMatchEulerDiscreteScheduler(), vae(4), clip(CLIPTextModel), tokenizer(), text_encoder_2, tokenizer_2,
        transformer,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def sd3(folder: Path) -> Path:
    """A StableDiffusion3Pipeline with all three text encoders."""
    torch.manual_seed(0)
    text_encoder_3, tokenizer_3 = t5()
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=2 * WIDTH, caption_projection_dim=16, pooled_projection_dim=2 * WIDTH, out_channels=4,
        pos_embed_max_size=8,
    )  # fmt: skip
    StableDiffusion3Pipeline(
        transformer, FlowMatchEulerDiscreteScheduler(), vae(4), clip(CLIPTextModelWithProjection), tokenizer(),
        clip(CLIPTextModelWithProjection), tokenizer(), text_encoder_3, tokenizer_3,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def edited(folder: Path, target: Path, part: str, edit: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A copy of a pipeline's folder with one component's tensors as a function leaves them."""
    shutil.copytree(folder, target)
    [file] = (target / part).glob("*.safetensors")
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return target


def tuned(folder: Path, target: Path, parts: tuple[str, ...], share: float = 0.1) -> Path:
    """A copy of a pipeline's folder with every matrix of some components moved by noise of ``share`` of its size."""
    shutil.copytree(folder, target)
    generator = torch.Generator().manual_seed(1)
    for part in parts:
        for file in sorted((target / part).glob("*.safetensors")):
            tensors = load_file(file)
            for name, value in sorted(tensors.items()):
                if value.ndim > 1 and "pos_embed.pos_embed" not in name:
                    tensors[name] = value + share * value.std() * torch.randn(value.shape, generator=generator)
            save_file(tensors, file, metadata={"format": "pt"})
    return target
