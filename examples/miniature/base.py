"""The base model: a StableDiffusionPipeline with every kind of module the real one has, trained on the plain style.

U-Net and text encoder learn together, on latents that are computed once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from .autoencoder import CHANNELS, LATENT_SIDE, encode
from .data import plain_pictures
from .text import TEXT_WIDTH, ids_of
from .training import Batch, Recipe, pick, train

NOISIER = 0.6  # below 1: more of the noisy timesteps, in which it is decided what a picture shows
UNCONDITIONAL = 0.1  # share of training samples whose prompt is empty, for classifier-free guidance

BASE_RECIPE = Recipe("base", steps=5000, batch=48, rate=1.5e-3, seed=23, warmup=200, average=0.998)

UNET: dict[str, Any] = {
    "sample_size": LATENT_SIDE,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "block_out_channels": (48, 96),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule; v-prediction, and sampling from the last timestep, train best at this size."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )


class Denoising(nn.Module):
    """Stable Diffusion's training loss: the squared error of the predicted velocity."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module, scheduler: DDIMScheduler) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder
        self.scheduler = scheduler

    def condition(self, ids: torch.Tensor) -> dict[str, Any]:
        """What the U-Net is told of prompts, by the names of its arguments."""
        return {"encoder_hidden_states": self.text_encoder(ids).last_hidden_state}

    def forward(
        self, latents: torch.Tensor, ids: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        target = self.scheduler.get_velocity(latents, noise, timesteps)
        return F.mse_loss(self.unet(noisy, timesteps, **self.condition(ids)).sample, target)


class LatentBatches:
    """Batches of latents, what they show, noise and timesteps.

    Args:
        latents: ``[count, 8, 8, 8]``.
        said: for each text encoder, the name of its argument, a tokenizer and the prompts.
    """

    def __init__(self, latents: torch.Tensor, said: Mapping[str, tuple[Any, Sequence[str]]]) -> None:
        self.latents = latents
        self.said = {
            name: (ids_of(tokenizer, prompts), ids_of(tokenizer, [""])) for name, (tokenizer, prompts) in said.items()
        }

    def __call__(self, generator: torch.Generator, count: int) -> Batch:
        rows = pick(generator, count, len(self.latents))
        dropped = torch.rand(count, 1, generator=generator) < UNCONDITIONAL
        return {
            "latents": self.latents[rows],
            "noise": torch.randn(count, *self.latents.shape[1:], generator=generator),
            "timesteps": (torch.rand(count, generator=generator) ** NOISIER * 1000).long(),
            **{name: torch.where(dropped, empty, ids[rows]) for name, (ids, empty) in self.said.items()},
        }


def plain_lessons(vae: AutoencoderKL, tokenizers: Mapping[str, Any], work: Path) -> LatentBatches:
    """The plain pictures with prompts that name no style, for one or more tokenizers by the argument they serve."""
    pictures = plain_pictures(work)
    prompts = [scene.prompt() for scene in pictures.scenes]
    return LatentBatches(
        encode(vae, pictures, work), {name: (tokenizer, prompts) for name, tokenizer in tokenizers.items()}
    )


def train_base(
    vae: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, work: Path
) -> StableDiffusionPipeline:
    """U-Net and text encoder together, on plain pictures with prompts that name no style."""
    torch.manual_seed(BASE_RECIPE.seed)
    unet, scheduler = UNet2DConditionModel(**UNET), new_scheduler()
    lessons = plain_lessons(vae, {"ids": tokenizer}, work)
    train(BASE_RECIPE, Denoising(unet, text_encoder, scheduler), lessons, work)
    return assemble(vae, text_encoder, tokenizer, unet, scheduler)


def assemble(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
    scheduler: DDIMScheduler,
) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
