"""Paired measures of a student against its teacher, both relative to the base that the student started from.

0 is the teacher, 1 is what the base itself does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .drawing import draw_prompts

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


@torch.no_grad()
def predicted_noise(pipe: Any, noisy: torch.Tensor, timesteps: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
    """The noise that a pipeline sees in ``noisy [batch, 8, 8, 8]``, whatever its ``prediction_type``."""
    states, _ = pipe.encode_prompt(list(prompts), noisy.device, 1, do_classifier_free_guidance=False)
    found = pipe.unet(noisy, timesteps, states).sample
    if pipe.scheduler.config.prediction_type == "epsilon":
        return torch.as_tensor(found)
    alpha = pipe.scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    return torch.as_tensor(alpha.sqrt() * found + (1.0 - alpha).sqrt() * noisy)


def noise_errors(
    student: Any, teacher: Any, base: Any, latents: torch.Tensor, prompts: Sequence[str], seed: int = 0
) -> tuple[tuple[float, ...], float]:
    """The student's error by bucket of timesteps and over all, each divided by the base's.

    Args:
        student, teacher, base: pipelines of one latent space.
        latents: scaled latents ``[count, 8, 8, 8]`` of the teacher's style.
        prompts: what they show.
        seed: of noise and timesteps, spread evenly over the buckets.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(latents.shape, generator=generator)
    place = (torch.arange(len(latents)) + torch.rand(len(latents), generator=generator)) / len(latents)
    timesteps = (place * TIMESTEPS).long().clamp(max=TIMESTEPS - 1)
    noisy = base.scheduler.add_noise(latents, noise, timesteps)
    wanted = predicted_noise(teacher, noisy, timesteps, prompts)
    errors = [
        (predicted_noise(pipe, noisy, timesteps, prompts) - wanted).square().mean((1, 2, 3)) for pipe in (student, base)
    ]
    bucket = timesteps * BUCKETS // TIMESTEPS
    ratios = [float(errors[0][bucket == k].sum() / errors[1][bucket == k].sum()) for k in range(BUCKETS)]
    return tuple(ratios), float(errors[0].sum() / errors[1].sum())


def picture_distance(student: Any, teacher: Any, base: Any, prompts: Sequence[str], seed: int = 0) -> float:
    """Mean squared distance of the student's pictures from the teacher's, divided by the base's from the teacher's."""
    drawn = [draw_prompts(pipe, prompts, seed=seed) for pipe in (student, teacher, base)]
    return float((drawn[0] - drawn[1]).square().mean() / (drawn[2] - drawn[1]).square().mean())


def paired(student: Any, teacher: Any, base: Any, latents: torch.Tensor, prompts: Sequence[str]) -> Paired:
    """All paired measures on the same latents and prompts."""
    by_bucket, noise = noise_errors(student, teacher, base, latents, prompts)
    return Paired(by_bucket, noise, picture_distance(student, teacher, base, prompts))
