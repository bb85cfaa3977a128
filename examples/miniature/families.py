"""Two more bases on the same pictures and latents: one built like SDXL, one a diffusion transformer built like Flux.

Their text encoders learn the same lessons first; the autoencoder is the base's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel, T5Tokenizer

from . import base
from .autoencoder import CHANNELS, encode
from .data import plain_scenes, style_pictures
from .render import SIDE
from .scenes import words
from .text import TEXT_WIDTH, TOKENS, load_tokenizer, teach_text, text_config
from .training import Recipe, train

XL_TEXT_RECIPE = Recipe("sdxl-text", steps=800, batch=128, rate=1e-3, seed=31)
XL_RECIPE = Recipe("sdxl", steps=2000, batch=48, rate=1.5e-3, seed=32, warmup=200, average=0.998)
T5_RECIPE = Recipe("dit-text", steps=800, batch=128, rate=1e-3, seed=33)
DIT_RECIPE = Recipe("dit", steps=3000, batch=48, rate=1e-3, seed=34, warmup=200, average=0.998)
XL_STYLE_RECIPE = Recipe("sdxl-ink", steps=450, batch=48, rate=8e-4, seed=51, average=0.99)
DIT_STYLE_RECIPE = Recipe("dit-ink", steps=400, batch=48, rate=8e-4, seed=52, average=0.99)
#: The style that both bases are fine-tuned on.
STYLE = "ink"

XL_UNET: dict[str, Any] = {
    **base.UNET,
    "block_out_channels": (32, 80),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2),
    "cross_attention_dim": 2 * TEXT_WIDTH,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": TEXT_WIDTH + 6 * 8,
}
DIT: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 4 * CHANNELS,
    "num_layers": 2,
    "num_single_layers": 4,
    "attention_head_dim": 24,
    "num_attention_heads": 4,
    "axes_dims_rope": (4, 10, 10),
    "joint_attention_dim": TEXT_WIDTH,
    "pooled_projection_dim": TEXT_WIDTH,
    "guidance_embeds": False,
}


class XlDenoising(base.Denoising):
    """SDXL's training loss: two text encoders' last but one states, the second's pooled one, and sizes."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module, text_encoder_2: nn.Module, scheduler: Any) -> None:
        super().__init__(unet, text_encoder, scheduler)
        self.text_encoder_2 = text_encoder_2

    def condition(self, ids: torch.Tensor) -> dict[str, Any]:
        one = self.text_encoder(ids, output_hidden_states=True)
        two = self.text_encoder_2(ids, output_hidden_states=True)
        states = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1)
        sizes = torch.tensor([SIDE, SIDE, 0, 0, SIDE, SIDE], device=ids.device).expand(len(ids), 6)
        return {
            "encoder_hidden_states": states,
            "added_cond_kwargs": {"text_embeds": two.text_embeds, "time_ids": sizes},
        }


def train_sdxl(vae: AutoencoderKL, work: Path) -> StableDiffusionXLPipeline:
    """A StableDiffusionXLPipeline of the plain style."""
    torch.manual_seed(XL_RECIPE.seed)
    tokenizer = load_tokenizer(work / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(work / "text_encoder")
    text_encoder_2 = CLIPTextModelWithProjection(text_config(tokenizer, projection_dim=TEXT_WIDTH))
    teach_text(XL_TEXT_RECIPE, text_encoder_2, tokenizer, plain_scenes(), work)
    batches = base.plain_lessons(vae, {"ids": tokenizer}, work)
    unet, scheduler = UNet2DConditionModel(**XL_UNET), base.new_scheduler()
    train(XL_RECIPE, XlDenoising(unet, text_encoder, text_encoder_2, scheduler), batches, work)
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=scheduler,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )


def new_t5_tokenizer() -> T5Tokenizer:
    """A T5 tokenizer of whole words and the comma."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -9.0)]
    pieces += [(word if word == "," else f"▁{word}", -1.0) for word in words()]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=TOKENS)


class FlowMatching(nn.Module):
    """Flux's training loss: the squared error of noise minus latents, on packed latents, at σ = (t + 1) / 1000."""

    def __init__(self, transformer: nn.Module, text_encoder: nn.Module, text_encoder_2: nn.Module) -> None:
        super().__init__()
        self.transformer, self.text_encoder, self.text_encoder_2 = transformer, text_encoder, text_encoder_2

    def forward(
        self,
        latents: torch.Tensor,
        ids: torch.Tensor,
        ids_2: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
    ) -> torch.Tensor:
        count, channels, height, width = latents.shape
        sigmas = (timesteps + 1) / 1000.0
        noisy, target = torch.lerp(latents, noise, sigmas.view(-1, 1, 1, 1)), noise - latents
        packed, wanted = (FluxPipeline._pack_latents(x, count, channels, height, width) for x in (noisy, target))
        states = self.text_encoder_2(ids_2).last_hidden_state
        places = FluxPipeline._prepare_latent_image_ids(count, height // 2, width // 2, ids.device, latents.dtype)
        found = self.transformer(
            hidden_states=packed,
            timestep=sigmas,
            pooled_projections=self.text_encoder(ids).pooler_output,
            encoder_hidden_states=states,
            txt_ids=torch.zeros(states.shape[1], 3, device=ids.device),
            img_ids=places,
        ).sample
        return F.mse_loss(found, wanted)


def train_dit(vae: AutoencoderKL, work: Path) -> FluxPipeline:
    """A FluxPipeline of the plain style."""
    torch.manual_seed(DIT_RECIPE.seed)
    tokenizer, tokenizer_2 = load_tokenizer(work / "tokenizer"), new_t5_tokenizer()
    vae.register_to_config(shift_factor=0.0)
    text_encoder = CLIPTextModel.from_pretrained(work / "text_encoder")
    text_encoder_2 = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer_2),
            d_model=TEXT_WIDTH,
            d_kv=16,
            d_ff=2 * TEXT_WIDTH,
            num_layers=3,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
        )
    )
    teach_text(T5_RECIPE, text_encoder_2, tokenizer_2, plain_scenes(), work)
    batches = base.plain_lessons(vae, {"ids": tokenizer, "ids_2": tokenizer_2}, work)
    transformer = FluxTransformer2DModel(**DIT)
    train(DIT_RECIPE, FlowMatching(transformer, text_encoder, text_encoder_2), batches, work)
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        transformer=transformer,
    )


def style_lessons(pipe: Any, tokenizers: Mapping[str, Any], work: Path) -> base.LatentBatches:
    """The pictures of `STYLE` with prompts that do not name it, for one or more tokenizers."""
    pictures = style_pictures(STYLE, work)
    prompts = [scene.prompt() for scene in pictures.scenes]
    latents = encode(pipe.vae, pictures, work)
    return base.LatentBatches(latents, {name: (tokenizer, prompts) for name, tokenizer in tokenizers.items()})


def tune_sdxl(pipe: StableDiffusionXLPipeline, work: Path) -> None:
    """Trains every weight of the U-Net and of both text encoders on `STYLE`, in place."""
    torch.manual_seed(XL_STYLE_RECIPE.seed)
    unet, one, two = (part.requires_grad_(True) for part in (pipe.unet, pipe.text_encoder, pipe.text_encoder_2))
    lessons = style_lessons(pipe, {"ids": pipe.tokenizer}, work)
    train(XL_STYLE_RECIPE, XlDenoising(unet, one, two, pipe.scheduler), lessons, work)


def tune_dit(pipe: FluxPipeline, work: Path) -> None:
    """Trains every weight of the transformer on `STYLE`, in place; the text encoders stay the base's, as usual."""
    torch.manual_seed(DIT_STYLE_RECIPE.seed)
    frozen = [part.requires_grad_(False) for part in (pipe.text_encoder, pipe.text_encoder_2)]
    lessons = style_lessons(pipe, {"ids": pipe.tokenizer, "ids_2": pipe.tokenizer_2}, work)
    train(DIT_STYLE_RECIPE, FlowMatching(pipe.transformer.requires_grad_(True), *frozen), lessons, work)
