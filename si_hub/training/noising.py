"""Pictures with noise in them, and what a denoiser is to say of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from si_hub.distill.training.pictures import add_noise


def kind_of_target(scheduler: Any) -> str:
    """What the model of a scheduler predicts: ``epsilon``, ``v_prediction``, ``sample`` or ``flow``."""
    if getattr(scheduler, "alphas_cumprod", None) is None:
        return "flow"
    return str(scheduler.config.get("prediction_type") or "epsilon")


def target_of(scheduler: Any, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """What is to be predicted at these times: ε; v = √ᾱ ε − √(1−ᾱ) x (arXiv 2202.00512); x; or the flow ε − x."""
    kind = kind_of_target(scheduler)
    if kind == "flow":
        return noise - latents
    if kind == "epsilon":
        return noise
    if kind == "sample":
        return latents
    alpha = _alphas(scheduler, times, latents.ndim)
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * latents


def min_snr_weights(scheduler: Any, times: Tensor, gamma: float) -> Tensor:
    """min(SNR, γ) / SNR, of v-prediction over SNR + 1 (arXiv 2303.09556); ones where there is no such schedule."""
    if not gamma or kind_of_target(scheduler) == "flow":
        return torch.ones(len(times))
    alpha = _alphas(scheduler, times, 1)
    snr = alpha / (1 - alpha)
    kind = kind_of_target(scheduler)
    held = snr.clamp(max=gamma)
    if kind == "sample":
        return held
    return held / (snr + 1 if kind == "v_prediction" else snr)


def noisy_of(scheduler: Any, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """The latents with noise in them, as the model is given them."""
    return add_noise(scheduler, latents, noise, times)


def _alphas(scheduler: Any, times: Tensor, ndim: int) -> Tensor:
    kept: Tensor = scheduler.alphas_cumprod.float()[times.long()]
    return kept.view(-1, *(1 for _ in range(ndim - 1)))
