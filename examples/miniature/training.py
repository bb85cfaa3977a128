"""One loop that trains everything here: through accelerate, with a moving average, resumable at any step.

The batch of a step depends on the seed, the step and the process alone, so a run that is stopped and taken up again
sees the batches it would have seen.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from .progress import bar

Batch = Mapping[str, torch.Tensor]
SAVE_EVERY = 60.0  # seconds


@dataclass(frozen=True)
class Recipe:
    """How something is trained.

    Args:
        name: names the run and its checkpoint.
        steps: optimiser steps; the learning rate falls to zero over them along a cosine.
        batch: samples a step, on all processes together.
        rate: peak learning rate.
        seed: of the batches.
        warmup: steps over which the learning rate rises.
        average: decay of the moving average of the weights, which is what a run returns.
        decay: weight decay.
    """

    name: str
    steps: int
    batch: int
    rate: float
    seed: int
    warmup: int = 100
    average: float = 0.995
    decay: float = 0.0

    def rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        return self.rate * min(1.0, (step + 1) / self.warmup) * 0.5 * (1.0 + math.cos(math.pi * step / self.steps))

    def average_at(self, step: int) -> float:
        """Decay of the moving average at a step: short at first, so that the start is forgotten."""
        return min(self.average, (step + 1) / (step + 10))


def train(
    recipe: Recipe,
    objective: nn.Module,
    batch_of: Callable[[torch.Generator, int], Batch],
    work: Path,
) -> None:
    """Trains ``objective`` in place and leaves its averaged weights in it.

    Args:
        recipe: how.
        objective: a module whose ``forward(**batch)`` is the loss; its parameters that require gradients are trained.
        batch_of: makes a batch of so many samples from a generator.
        work: folder of the checkpoint ``{recipe.name}.state.pt``, taken up where it is found.
    """
    accelerator = Accelerator()
    state_file = work / f"{recipe.name}.state.pt"
    trained = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    average = {name: p.detach().clone() for name, p in trained.items()}
    optimizer = torch.optim.AdamW(list(trained.values()), lr=recipe.rate, betas=(0.9, 0.99), weight_decay=recipe.decay)
    step = 0
    if state_file.exists():
        state = torch.load(state_file, map_location="cpu", weights_only=True)
        objective.load_state_dict(state["weights"], strict=False)
        optimizer.load_state_dict(state["optimizer"])
        average, step = state["average"], state["step"]
    prepared, optimizer = accelerator.prepare(objective, optimizer)
    average = {name: value.to(accelerator.device) for name, value in average.items()}

    def save() -> None:
        accelerator.wait_for_everyone()
        if not accelerator.is_main_process:
            return
        weights = {name: p.detach() for name, p in trained.items()}
        state = {"weights": weights, "optimizer": optimizer.state_dict(), "average": average, "step": step}
        atomic_save(state, state_file)

    share = max(1, recipe.batch // accelerator.num_processes)
    smooth, saved = math.nan, time.monotonic()
    prepared.train()
    with bar(recipe.name, recipe.steps, step) as show:
        while step < recipe.steps:
            seed = (recipe.seed * 1_000_003 + step) * 1_009 + accelerator.process_index
            batch = batch_of(torch.Generator().manual_seed(seed), share)
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate_at(step)
            loss = prepared(**{name: value.to(accelerator.device) for name, value in batch.items()})
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(list(trained.values()), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                keep = recipe.average_at(step)
                for name, parameter in trained.items():
                    average[name].lerp_(parameter, 1.0 - keep)
            step += 1
            smooth = loss.item() if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss.item()
            show(step, f"loss {smooth:.4f}")
            if time.monotonic() - saved > SAVE_EVERY:
                save()
                saved = time.monotonic()
    save()
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(average[name])
    objective.to("cpu").eval()


def atomic_save(state: dict[str, Any], file: Path) -> None:
    """Writes beside, then renames: a run that is killed while saving keeps its last state."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    torch.save(state, part)
    part.replace(file)


def pick(generator: torch.Generator, count: int, among: int) -> torch.Tensor:
    """``count`` indices below ``among``, with replacement."""
    return torch.randint(among, (count,), generator=generator)
