"""What is to be learned: pictures, words and a target, from the miniature; and the unseen pictures to measure on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.miniature.checkpoints import HERE, unfold
from examples.miniature.progress import hush
from examples.miniature.report import load, render_scenes
from examples.miniature.scenes import STYLES, scenes
from examples.miniature.text import ids_of

TAUGHT = STYLES[1:]
#: Share of training pictures that are shown without their prompt.
DROPOUT = 0.1
#: Below 1: more of the noisy timesteps, as the base learned.
NOISIER = 0.6
UNSEEN, PLAIN = 100, 40
#: Seeds of held-out scenes: those of the search, and those that are reported.
LOOKED_AT = {"search": 90_001, "report": 95_001}


@dataclass(frozen=True)
class Task:
    """Something to learn.

    Args:
        name: as the tables have it.
        title: in words.
        styles: of the pictures, ``count`` of each.
        count: pictures of a style.
        steps: optimiser steps, with 8 pictures each.
        told: whether the prompt says the style's word.
        teacher: a checkpoint whose predictions are the target, instead of the pictures' own.
    """

    name: str
    title: str
    styles: tuple[str, ...]
    count: int
    steps: int
    told: bool = False
    teacher: str | None = None


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("small-16", "16 pictures of one style", ("ink",), 16, 100),
        Task("small-8", "8 pictures of one style", ("ink",), 8, 100),
        Task("small-64", "64 pictures of one style", ("ink",), 64, 130),
        Task("neon-16", "16 pictures of another style", ("neon",), 16, 100),
        Task("large", "five styles, each by its word, 400 pictures of each", TAUGHT, 400, 130, told=True),
        Task("distill-ink", "the checkpoint of one style", ("ink",), 400, 130, teacher="ink"),
        Task("distill-all", "the checkpoint of all styles", TAUGHT, 200, 130, told=True, teacher="all_styles"),
    )
}


@dataclass(frozen=True)
class Seen:
    """Pictures with what they show: latents ``[count, 8, 8, 8]``, the base's text states, the prompts."""

    latents: Tensor
    states: Tensor
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Probe:
    """Noisy pictures and what a model should say of them; ``unit`` is the base's own error or 1."""

    noisy: Tensor
    times: Tensor
    states: Tensor
    wanted: Tensor
    unit: float

    @torch.no_grad()
    def error(self, unet: nn.Module) -> float:
        """Mean squared error of the predicted velocity."""
        found = unet(self.noisy, self.times, self.states).sample
        return float(F.mse_loss(found, self.wanted)) / self.unit


#: Noisy latents, times, text states and wanted velocities.
Batch = tuple[Tensor, Tensor, Tensor, Tensor]


class Ground:
    """The base and its pictures, once in a process."""

    def __init__(self) -> None:
        hush()
        torch.set_num_threads(1)
        self.pipe = load(HERE)
        for model in (self.pipe.unet, self.pipe.vae, self.pipe.text_encoder):
            model.requires_grad_(False).eval()
        #: What a teacher was asked last: a task, its seed and size of a batch; and its batches by step.
        self._asked: tuple[tuple[Task, int, int] | None, dict[int, Batch]] = (None, {})

    @cached_property
    def nothing(self) -> Tensor:
        """Text states of the empty prompt, ``[1, tokens, width]``."""
        return self._states(self.pipe, ("",))

    def _states(self, pipe: Any, prompts: tuple[str, ...]) -> Tensor:
        with torch.no_grad():
            found: Tensor = pipe.text_encoder(ids_of(pipe.tokenizer, list(prompts))).last_hidden_state
        return found

    @cache  # noqa: B019 - one object a process, and few tasks
    def seen(self, styles: tuple[str, ...], count: int, seed: int, told: bool, held_out: bool) -> Seen:
        """Pictures of styles, ``count`` of each, of scenes that are held out from everything or of none such."""
        latents, prompts = [], []
        for number, style in enumerate(styles):
            wanted = list(islice(scenes(seed * 101 + number, held_out=held_out), count))
            with torch.no_grad():
                parts = torch.split(render_scenes(wanted, style), 64)
                latents += [self.pipe.vae.encode(part).latent_dist.mean for part in parts]
            prompts += [scene.prompt(style if told else None) for scene in wanted]
        return Seen(
            torch.cat(latents) * self.pipe.vae.config.scaling_factor,
            self._states(self.pipe, tuple(prompts)),
            tuple(prompts),
        )

    @cache  # noqa: B019
    def teacher(self, name: str) -> Any:
        """The whole pipeline of a checkpoint."""
        pipe = unfold(HERE / f"checkpoints/{name}.safetensors", HERE / "base")
        for model in (pipe.unet, pipe.text_encoder):
            model.requires_grad_(False).eval()
        return pipe

    def lessons(self, task: Task, seed: int) -> Seen:
        """What a task's learner sees under a seed."""
        return self.seen(task.styles, task.count, 700 + seed, task.told, False)

    @cache  # noqa: B019
    def probes(self, task: Task, role: str) -> tuple[Probe, Probe]:
        """What is measured: unseen pictures of the task, and plain ones with plain prompts (forgetting)."""
        count = -(-UNSEEN // len(task.styles))
        own = self.seen(task.styles, count, LOOKED_AT[role], task.told, True)
        return self._probe(own, task.teacher, 5), self._probe(
            self.seen(("plain",), PLAIN, LOOKED_AT[role] + 1, False, True), None, 6
        )

    def _probe(self, seen: Seen, teacher: str | None, seed: int) -> Probe:
        generator, count = torch.Generator().manual_seed(seed), len(seen.latents)
        noise = torch.randn(seen.latents.shape, generator=generator)
        times = ((torch.arange(count) + 0.5) / count * 1000).long()[torch.randperm(count, generator=generator)]
        noisy, wanted = self.lesson(seen, teacher, torch.arange(count), noise, times)
        probe = Probe(noisy, times, seen.states, wanted, 1.0)
        unit = probe.error(self.pipe.unet) if teacher else 1.0
        return Probe(noisy, times, seen.states, wanted, unit)

    @torch.no_grad()
    def lesson(
        self, seen: Seen, teacher: str | None, rows: Tensor, noise: Tensor, times: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Noisy latents of some pictures, and the velocity that is wanted there."""
        clean, scheduler = seen.latents[rows], self.pipe.scheduler
        noisy = scheduler.add_noise(clean, noise, times)
        if teacher is None:
            return noisy, scheduler.get_velocity(clean, noise, times)
        pipe = self.teacher(teacher)
        states = self._states(pipe, tuple(seen.prompts[int(row)] for row in rows))
        return noisy, pipe.unet(noisy, times, states).sample

    def batch(self, task: Task, step: int, seed: int, count: int) -> Batch:
        """A step's noisy latents, times, text states and wanted velocities: those of every method."""
        if task.teacher is None:
            return self._batch(task, step, seed, count)
        if self._asked[0] != (task, seed, count):
            self._asked = (task, seed, count), {}
        known = self._asked[1]
        if step not in known:
            known[step] = self._batch(task, step, seed, count)
        return known[step]

    def _batch(self, task: Task, step: int, seed: int, count: int) -> Batch:
        seen = self.lessons(task, seed)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(seen.latents), (count,), generator=generator)
        hidden = torch.rand(count, 1, 1, generator=generator) < (0.0 if task.teacher else DROPOUT)
        noise = torch.randn(count, *seen.latents.shape[1:], generator=generator)
        times = (torch.rand(count, generator=generator) ** NOISIER * 1000).long()
        noisy, wanted = self.lesson(seen, task.teacher, rows, noise, times)
        return noisy, times, torch.where(hidden, self.nothing, seen.states[rows]), wanted
