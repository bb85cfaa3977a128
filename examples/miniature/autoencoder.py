"""The autoencoder of all the bases: trained on every style, its latents standardised, its decoder then sharpened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn

from .data import Pictures, all_styles, to_floats
from .progress import track
from .training import Batch, Recipe, atomic_save, pick, train

LATENT_SIDE = 8
CHANNELS = 8  # of the latents; with Stable Diffusion's four, shapes of nine pixels come back blurred
VAE_RECIPE = Recipe("vae", steps=2400, batch=24, rate=2e-3, seed=21)
DECODER_RECIPE = Recipe("decoder", steps=2500, batch=24, rate=2e-3, seed=24)
KL_WEIGHT = 2e-4
DECODED_NOISE = 0.06  # what the encoder itself is unsure of, in standard deviations of the latents

VAE: dict[str, Any] = {
    "sample_size": 32,
    "block_out_channels": (16, 32, 48),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "latent_channels": CHANNELS,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
}


class Autoencoding(nn.Module):
    """The autoencoder's loss: squared and absolute error of the picture, and the divergence of its latents."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pictures: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        found = self.vae.encode(pictures).latent_dist
        drawn = self.vae.decode(found.mean + found.std * noise).sample
        error = drawn - pictures
        divergence = 0.5 * (found.mean.square() + found.var - 1.0 - found.logvar).mean()
        loss: torch.Tensor = error.square().mean() + 0.2 * error.abs().mean() + KL_WEIGHT * divergence
        return loss


def train_vae(work: Path) -> AutoencoderKL:
    """An autoencoder of pictures in every style, with standardised latents."""
    torch.manual_seed(VAE_RECIPE.seed)
    pictures = torch.cat([one.floats() for one in all_styles(work)])
    vae = AutoencoderKL(**VAE)

    def batch_of(generator: torch.Generator, count: int) -> Batch:
        rows = pick(generator, count, len(pictures))
        noise = torch.randn(count, CHANNELS, LATENT_SIDE, LATENT_SIDE, generator=generator)
        return {"pictures": pictures[rows], "noise": noise}

    train(VAE_RECIPE, Autoencoding(vae), batch_of, work)
    standardise(vae, pictures[:: len(pictures) // 600])
    return vae


@torch.no_grad()
def standardise(vae: AutoencoderKL, pictures: torch.Tensor) -> None:
    """Gives every latent channel zero mean and unit variance over the pictures; what is decoded stays the same.

    The change of coordinates goes into the 1×1 convolutions on both sides of the latents, since Stable Diffusion
    itself knows only one factor for all channels, which becomes 1.
    """
    latents = vae.encode(pictures).latent_dist.mean
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    inner, outer = vae.quant_conv, vae.post_quant_conv
    inner.weight[:channels] /= std.view(-1, 1, 1, 1)
    inner.bias[:channels] = (inner.bias[:channels] - mean) / std
    inner.bias[channels:] -= 2.0 * std.log()
    outer.bias += outer.weight[:, :, 0, 0] @ mean
    outer.weight *= std.view(1, -1, 1, 1)
    vae.register_to_config(scaling_factor=1.0)


class Decoding(nn.Module):
    """The loss of the decoder alone: error of the picture, squared and absolute, and of its differences in x and y."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: torch.Tensor, noise: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
        error = self.vae.decode(latents + DECODED_NOISE * noise).sample - pictures
        edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        loss: torch.Tensor = error.square().mean() + 0.2 * error.abs().mean() + 0.2 * edges
        return loss


def train_decoder(vae: AutoencoderKL, work: Path) -> AutoencoderKL:
    """Goes on with the decoder while the latents stay what they are: sharper pictures for every model on them."""
    torch.manual_seed(DECODER_RECIPE.seed)
    sets = all_styles(work)
    latents = torch.cat([encode(vae, one, work) for one in sets])
    pictures = torch.from_numpy(np.concatenate([one.images for one in sets]))

    def batch_of(generator: torch.Generator, count: int) -> Batch:
        rows = pick(generator, count, len(pictures))
        noise = torch.randn(count, CHANNELS, LATENT_SIDE, LATENT_SIDE, generator=generator)
        return {"latents": latents[rows], "noise": noise, "pictures": to_floats(pictures[rows])}

    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    train(DECODER_RECIPE, Decoding(vae), batch_of, work)
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Pictures, work: Path) -> torch.Tensor:
    """Scaled latents ``[count, 8, 8, 8]`` of a training set, computed once and kept in the work folder."""
    seed = pictures.scenes[0].prompt().replace(" ", "_")
    file = work / "latents" / f"{pictures.style}-{len(pictures.scenes)}-{seed}.pt"
    if not file.exists():
        parts = torch.chunk(pictures.floats(), 40)
        found = [vae.encode(part).latent_dist.mean for part in track(parts, f"latents: {pictures.style}")]
        atomic_save({"latents": torch.cat(found) * vae.config.scaling_factor}, file)
    return torch.as_tensor(torch.load(file, weights_only=True)["latents"])
