"""Latents are standardised without changing a picture."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL

from examples.miniature import autoencoder


def test_standardising_gives_unit_latents_and_the_same_pictures() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(**autoencoder.VAE).eval()
    pictures = torch.rand(16, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        before = vae.encode(pictures).latent_dist
        drawn = vae.decode(before.mean).sample
        autoencoder.standardise(vae, pictures)
        after = vae.encode(pictures).latent_dist
        assert torch.allclose(vae.decode(after.mean).sample, drawn, atol=1e-4)
    assert torch.allclose(after.mean.mean((0, 2, 3)), torch.zeros(autoencoder.CHANNELS), atol=1e-4)
    assert torch.allclose(after.mean.std((0, 2, 3)), torch.ones(autoencoder.CHANNELS), atol=1e-4)
    assert torch.allclose(after.std * before.mean.std((0, 2, 3)).view(1, -1, 1, 1), before.std, rtol=1e-4)
    assert vae.config.scaling_factor == 1.0
