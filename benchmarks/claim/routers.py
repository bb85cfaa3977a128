"""Whether trained routers choose: entropy, and what their choice says of the style, at few tokens and many."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.claim.runs import Wanted, ground, trained
from benchmarks.claim.tasks import TASKS
from si_hub.tuner import operator

#: Sides of the latents that the routers are asked at: 64 and 4,096 tokens in the widest layers.
SIDES = (8, 64)


@dataclass(frozen=True)
class Choice:
    """How the routers of one U-Net choose.

    Args:
        tokens: of the layers with most of them.
        entropy: mean of the entropies of s, 1 for uniform and 0 for one branch.
        moved: mean over layers of the standard deviation of s over pictures: 0 for a router that never moves.
        agreement: share of pictures whose style is right when guessed from the layer's largest branch, mean of the
            layers.
        chance: the same for a router that does not move.
    """

    tokens: int
    entropy: float
    moved: float
    agreement: float
    chance: float


@contextmanager
def _listening(found: list[Tensor]) -> Iterator[None]:
    """Every s that a router gives, in the order of the layers."""
    own = operator.route

    def route(pooled: Tensor, weight: Tensor | None, bias: Tensor) -> Tensor:
        s = own(pooled, weight, bias)
        found.append(s.detach())
        return s

    operator.route = route
    try:
        yield
    finally:
        operator.route = own


def choices(wanted: Wanted, runs: Path) -> list[Choice]:
    """What the routers of a finished run say of unseen pictures of its styles, at each of `SIDES`."""
    unet, here, task = trained(wanted, runs), ground(), TASKS[wanted.task]
    count = 20
    seen = here.seen(task.styles, count, 97_001, task.told, True)
    styles = torch.arange(len(task.styles)).repeat_interleave(count)
    return [_choice(unet, here, seen.latents, seen.states, styles, side) for side in SIDES]


@torch.no_grad()
def _choice(unet: Any, here: Any, latents: Tensor, states: Tensor, styles: Tensor, side: int) -> Choice:
    clean = F.interpolate(latents, size=(side, side), mode="bilinear") if side != latents.shape[-1] else latents
    generator = torch.Generator().manual_seed(11)
    times = torch.full((len(clean),), 500)
    noisy = here.pipe.scheduler.add_noise(clean, torch.randn(clean.shape, generator=generator), times)
    by_layer: list[list[Tensor]] = []
    for rows in torch.split(torch.arange(len(clean)), 5 if side > 8 else 50):
        heard: list[Tensor] = []
        with _listening(heard):
            unet(noisy[rows], times[rows], states[rows])
        by_layer.append(heard)
    layers = [torch.cat(parts) for parts in zip(*by_layer, strict=True)]
    layers = [s for s in layers if s.ndim == 2 and len(s) == len(clean)]
    entropies = [float(-(s * s.clamp_min(1e-12).log()).sum(1).mean()) / math.log(s.shape[1]) for s in layers]
    moved = [float(s.std(0).mean()) for s in layers]
    agreement = [_agreement(s.argmax(1), styles) for s in layers]
    entropy, spread, right = (sum(values) / len(values) for values in (entropies, moved, agreement))
    return Choice(side * side, entropy, spread, right, 1.0 / len(torch.unique(styles)))


def _agreement(chosen: Tensor, styles: Tensor) -> float:
    """Share that is right when every branch stands for the style that chooses it most."""
    right = sum(int(torch.bincount(styles[chosen == branch]).max()) for branch in torch.unique(chosen).tolist())
    return right / len(styles)
