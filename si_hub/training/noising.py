"""What a denoiser is asked, and what it should answer, by the pipeline's scheduler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from si_hub.errors import CannotRun

#: What a model predicts: the noise, the velocity v = √ᾱ ε − √(1−ᾱ) x, the picture, or the flow's ε − x.
Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]


@dataclass(frozen=True, slots=True)
class Objective:
    """The training objective that a scheduler's configuration implies.

    Attributes:
        predicts: what.
        kept: ᾱ by timestep; ``None`` of flow matching, which has σ = t / steps instead.
        steps: timesteps of the schedule.
        shift: of flow matching, σ → shift σ / (1 + (shift − 1) σ).
    """

    predicts: Prediction
    kept: Tensor | None
    steps: int
    shift: float = 1.0

    @classmethod
    def of(cls, scheduler: Any) -> Objective:
        """
        Raises:
            CannotRun: a scheduler of another kind of model.
        """
        config = scheduler.config
        kept = getattr(scheduler, "alphas_cumprod", None)
        if kept is None:
            if not hasattr(scheduler, "sigmas") or "Flow" not in type(scheduler).__name__:
                raise CannotRun("is no scheduler whose models are trained here", found=type(scheduler).__name__)
            dynamic = bool(config.get("use_dynamic_shifting", False))
            return cls("flow", None, int(config.num_train_timesteps), 1.0 if dynamic else float(config.get("shift", 1)))
        said = config.get("prediction_type", "epsilon")
        if said not in ("epsilon", "v_prediction", "sample"):
            raise CannotRun("predicts what is not trained here", key="prediction_type", found=said)
        return cls(said, kept.float().cpu(), int(config.num_train_timesteps))

    def times(self, count: int, generator: torch.Generator, spread: str = "uniform") -> Tensor:
        """Timesteps for ``count`` samples, each from a stratum of its own of the schedule.

        Args:
            count: how many.
            generator: what is random.
            spread: ``uniform``, or ``middle``: more of the middle, by a logistic normal (Esser et al., 2403.03206).
        """
        place = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        if spread == "middle":
            place = torch.sigmoid(torch.special.ndtri(place.clamp(1e-4, 1 - 1e-4)))
        place = place[torch.randperm(count, generator=generator)]
        if self.kept is None:
            return self.shift * place / (1 + (self.shift - 1) * place) * self.steps
        return (place * self.steps).floor().clamp(max=self.steps - 1)

    def answer(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """What the model should predict, shaped as the latents."""
        if self.kept is None:
            return noise - latents
        if self.predicts == "epsilon":
            return noise
        if self.predicts == "sample":
            return latents
        alpha = _along(self.kept[times.long().cpu()], latents)
        return alpha.sqrt() * noise - (1.0 - alpha).sqrt() * latents

    def weight(self, times: Tensor, gamma: float | None) -> Tensor:
        """What each sample's loss counts: 1, or min-SNR's min(SNR, γ) / SNR (Hang et al., 2303.09556).

        Args:
            times: timesteps.
            gamma: γ; ``None`` for 1.
        """
        if gamma is None or self.kept is None:
            return torch.ones(len(times))
        kept = self.kept[times.long().cpu()].double()
        snr = kept / (1.0 - kept)
        least = snr.clamp(max=gamma)
        by = {"epsilon": snr, "v_prediction": snr + 1.0, "sample": torch.ones_like(snr)}[self.predicts]
        return (least / by).float()


def _along(values: Tensor, like: Tensor) -> Tensor:
    """One value a sample, spread over the sample."""
    return values.to(like.device).view(-1, *[1] * (like.ndim - 1))


def add_noise(scheduler: Any, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """What a denoiser is given at a time: √ᾱ x + √(1−ᾱ) ε, or (1−σ) x + σ ε of flow-matching models."""
    return mix_noise(getattr(scheduler, "alphas_cumprod", None), scheduler.config.num_train_timesteps, latents, noise,
                     times)  # fmt: skip


def mix_noise(kept: Tensor | None, steps: int, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """The same, of a schedule: its ᾱ by timestep, or ``None`` of flow matching, and its number of timesteps."""
    if kept is None:
        return torch.lerp(latents, noise, _along(times / steps, latents))
    alpha = _along(kept.float()[times.long().to(kept.device)], latents)
    return alpha.sqrt() * latents + (1.0 - alpha).sqrt() * noise
