"""Paired measures of a student against its teacher, both relative to the base that the student started from.

0 is the teacher, 1 is what the base itself does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FluxPipeline

from .drawing import draw_prompts
from .render import SIDE
from .text import TOKENS

BUCKETS = 5
TIMESTEPS = 1000


@dataclass(frozen=True)
class Paired:
    """A student against its teacher.

    Args:
        by_bucket: squared error of the predicted noise in each fifth of the timesteps, divided by the base's.
        noise: the same over all timesteps.
        distance: mean squared distance of pictures drawn from equal noise, divided by the base's.
    """

    by_bucket: tuple[float, ...]
    noise: float
    distance: float


def _ask_unet(pipe: Any, noisy: torch.Tensor, timesteps: torch.Tensor, prompts: list[str]) -> Any:
    states, _ = pipe.encode_prompt(prompts, noisy.device, 1, do_classifier_free_guidance=False)
    return pipe.unet(noisy, timesteps, states).sample


def _ask_xl(pipe: Any, noisy: torch.Tensor, timesteps: torch.Tensor, prompts: list[str]) -> Any:
    states, _, pooled, _ = pipe.encode_prompt(prompts, device=noisy.device, do_classifier_free_guidance=False)
    sizes = torch.tensor([SIDE, SIDE, 0, 0, SIDE, SIDE], device=noisy.device).expand(len(noisy), 6)
    return pipe.unet(noisy, timesteps, states, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}).sample


def _ask_flux(pipe: Any, noisy: torch.Tensor, timesteps: torch.Tensor, prompts: list[str]) -> Any:
    states, pooled, text_ids = pipe.encode_prompt(prompts, None, noisy.device, max_sequence_length=TOKENS)
    count, channels, height, width = noisy.shape
    found = pipe.transformer(
        hidden_states=FluxPipeline._pack_latents(noisy, count, channels, height, width),
        timestep=(timesteps + 1) / TIMESTEPS,
        pooled_projections=pooled,
        encoder_hidden_states=states,
        txt_ids=text_ids,
        img_ids=FluxPipeline._prepare_latent_image_ids(count, height // 2, width // 2, noisy.device, noisy.dtype),
    ).sample
    return FluxPipeline._unpack_latents(found, height, width, 1)


#: What a denoiser says of noisy latents, by the pipeline's class; Stable Diffusion's where it is none of these.
ASK: dict[str, Callable[[Any, torch.Tensor, torch.Tensor, list[str]], Any]] = {
    "StableDiffusionXLPipeline": _ask_xl,
    "FluxPipeline": _ask_flux,
}


@torch.no_grad()
def predicted_noise(pipe: Any, noisy: torch.Tensor, timesteps: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
    """The noise that a pipeline sees in ``noisy [batch, 8, 8, 8]``, whatever its ``prediction_type``; a flow's velocity
    stays what it is."""
    found = ASK.get(type(pipe).__name__, _ask_unet)(pipe, noisy, timesteps, list(prompts))
    if not hasattr(pipe.scheduler, "alphas_cumprod") or pipe.scheduler.config.prediction_type == "epsilon":
        return torch.as_tensor(found)
    alpha = pipe.scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    return torch.as_tensor(alpha.sqrt() * found + (1.0 - alpha).sqrt() * noisy)


@dataclass(frozen=True)
class Noised:
    """States to compare predictions on.

    Args:
        latents: noisy latents ``[count, 8, 8, 8]``.
        timesteps: ``[count]``, spread evenly over the buckets.
        prompts: what the latents show.
    """

    latents: torch.Tensor
    timesteps: torch.Tensor
    prompts: Sequence[str]

    def predict_by(self, pipe: Any) -> torch.Tensor:
        """The noise that a pipeline sees in these states, ``[count, 8, 8, 8]``."""
        return predicted_noise(pipe, self.latents, self.timesteps, self.prompts)


def errors_left(
    timesteps: torch.Tensor, student: torch.Tensor, teacher: torch.Tensor, base: torch.Tensor
) -> tuple[tuple[float, ...], float]:
    """Squared error of a student's predicted noise by bucket of timesteps and over all, divided by the base's."""
    own, before = ((found - teacher).square().mean((1, 2, 3)) for found in (student, base))
    bucket = timesteps * BUCKETS // TIMESTEPS
    ratios = [float(own[bucket == k].sum() / before[bucket == k].sum()) for k in range(BUCKETS)]
    return tuple(ratios), float(own.sum() / before.sum())


def add_noise(scheduler: Any, latents: torch.Tensor, prompts: Sequence[str], seed: int = 0) -> Noised:
    """Scaled latents ``[count, 8, 8, 8]`` of the teacher's style with noise and timesteps of a seed.

    Of a flow, σ is (timestep + 1) / 1000.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(latents.shape, generator=generator)
    place = (torch.arange(len(latents)) + torch.rand(len(latents), generator=generator)) / len(latents)
    timesteps = (place * TIMESTEPS).long().clamp(max=TIMESTEPS - 1)
    if hasattr(scheduler, "alphas_cumprod"):
        return Noised(scheduler.add_noise(latents, noise, timesteps), timesteps, prompts)
    return Noised(torch.lerp(latents, noise, ((timesteps + 1) / TIMESTEPS).view(-1, 1, 1, 1)), timesteps, prompts)


def noise_errors(
    student: Any, teacher: Any, base: Any, latents: torch.Tensor, prompts: Sequence[str], seed: int = 0
) -> tuple[tuple[float, ...], float]:
    """The student's error by bucket of timesteps and over all, each divided by the base's, on states of `add_noise`."""
    states = add_noise(base.scheduler, latents, prompts, seed)
    return errors_left(states.timesteps, *(states.predict_by(pipe) for pipe in (student, teacher, base)))


def distance_left(student: torch.Tensor, teacher: torch.Tensor, base: torch.Tensor) -> float:
    """Mean squared distance of the student's pictures from the teacher's, divided by the base's from the teacher's."""
    return float((student - teacher).square().mean() / (base - teacher).square().mean())


def picture_distance(student: Any, teacher: Any, base: Any, prompts: Sequence[str], seed: int = 0) -> float:
    """`distance_left` of pictures that each pipeline draws from equal noise."""
    return distance_left(*(draw_prompts(pipe, prompts, seed=seed) for pipe in (student, teacher, base)))


def measure_pair(student: Any, teacher: Any, base: Any, latents: torch.Tensor, prompts: Sequence[str]) -> Paired:
    """All paired measures on the same latents and prompts."""
    by_bucket, noise = noise_errors(student, teacher, base, latents, prompts)
    return Paired(by_bucket, noise, picture_distance(student, teacher, base, prompts))
