"""What is learned: the noise in pictures, with their captions said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from si_hub.distill.running import trajectory
from si_hub.distill.running.runner import Runner
from si_hub.distill.running.states import States
from si_hub.distill.running.student import Student
from si_hub.distill.training.pictures import encode_picture
from si_hub.distill.work.seeds import seed_of
from si_hub.errors import CannotRun
from si_hub.training.dataset import Example
from si_hub.training.noising import min_snr_weights, noisy_of, target_of
from si_hub.training.settings import Settings

#: Where a denoiser takes the noisy latents.
_LATENTS = ("sample", "hidden_states")
#: Noises that each picture is measured with.
_MEASURED = 4


@dataclass(frozen=True, slots=True)
class Shown:
    """Pictures with noise in them, and what is to be predicted.

    Attributes:
        states: what the denoiser is called with.
        target: in the model's own terms, shaped as its prediction.
        weights: of each in the loss.
        styles: number of each one's branch.
    """

    states: States
    target: Tensor
    weights: Tensor
    styles: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.styles)

    def __getitem__(self, rows: slice | Sequence[int]) -> Shown:
        picked = list(range(len(self))[rows]) if isinstance(rows, slice) else list(rows)
        styles = tuple(self.styles[row] for row in picked)
        return Shown(self.states[picked], self.target[picked], self.weights[picked], styles)


class KeptText(Runner):
    """A runner that encodes each prompt once: no text encoder learns anything."""

    _kept: dict[str | None, dict[str, Tensor]]

    def encode(self, prompts: Sequence[str | None]) -> dict[str, Tensor]:
        """The denoiser's text arguments, one row a prompt."""
        kept = self.__dict__.setdefault("_kept", {})
        for prompt in prompts:
            if prompt not in kept:
                with torch.no_grad():
                    kept[prompt] = super().encode([prompt])
        rows = [kept[prompt] for prompt in prompts]
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


@dataclass(slots=True)
class PictureTask:
    """The task of the loop: predict what is noise in pictures.

    Attributes:
        student: the adapter in the pipeline.
        settings: how it is trained.
        examples: what from.
        latents: ``[pictures, channels, height, width]``, scaled; those of ``examples``, then those of ``measured``.
        measured: pictures that are measured and never learned from; those that are learned from where there are none.
        branches: names of the styles, where folders are styles.
        like: a state of the pipeline's own sampling, and its time: what else the denoiser is called with.
    """

    student: Student
    settings: Settings
    examples: Sequence[Example]
    measured: Sequence[Example]
    latents: Tensor
    branches: tuple[str, ...]
    like: tuple[States, float]
    _measured: Shown = field(init=False)
    _base: float = field(init=False)

    def __post_init__(self) -> None:
        shown = range(len(self.examples)) if not self.measured else range(len(self.examples), len(self.latents))
        count = _MEASURED * len(shown)
        generator = torch.Generator().manual_seed(seed_of(self.settings.seed, "measure", 0))
        rows = [row for row in shown for _ in range(_MEASURED)]
        self._measured = self._show(rows, (torch.arange(count) + 0.5) / count, generator, hidden=[False] * count)
        # A student starts as the base: what it leaves is measured in units of that.
        self._base = self._error()

    @classmethod
    def prepare(
        cls,
        runner: Runner,
        student: Student,
        settings: Settings,
        examples: Sequence[Example],
        measured: Sequence[Example],
        branches: tuple[str, ...],
    ) -> PictureTask:
        """The task, with all pictures encoded.

        Raises:
            CannotRun: a pipeline whose latents are made in a way that is not known here.
        """
        steps = trajectory.trajectories(runner, ["a"], [0], 2)
        like = steps[0], float(runner.pipeline.scheduler.timesteps[0])
        side = settings.resolution or _side(runner)
        latents = torch.cat([encode_picture(runner, one.file, side, side) for one in (*examples, *measured)])
        if settings.resolution is None:
            _latents_of(like[0], runner)
        return cls(student, settings, examples, measured, latents, branches, like)

    @property
    def leaves(self) -> Mapping[str, nn.Parameter]:
        """The adapter's tensors; the fixed mix of named styles is not learned."""
        return {
            name: leaf for name, leaf in self.student.leaves.items()
            if not (self.branches and ".router." in name)
        }  # fmt: skip

    def draw(self, step: int, count: int) -> Shown:
        """The pictures of a step, spread over all of them and over the noise schedule."""
        generator = torch.Generator().manual_seed(seed_of(self.settings.seed, "draw", step))
        order = torch.randperm(len(self.examples), generator=generator).tolist()
        rows = sorted((order * -(-count // len(order)))[:count], key=lambda row: self.examples[row].style)
        places = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
        hidden = (torch.rand(count, generator=generator) < self.settings.dropout).tolist()
        return self._show(rows, places, generator, hidden)

    def loss(self, part: Shown) -> Tensor:
        """Squared error of the prediction, each style's pictures with that branch alone."""
        if not self.branches:
            return self._squares(part).mean()
        total = torch.zeros((), device=self.student.runner.device)
        for number in sorted(set(part.styles)):
            rows = [row for row, style in enumerate(part.styles) if style == number]
            self.student.choose({self.branches[number]: 1.0})
            total = total + self._squares(part[rows]).sum()
        return total / len(part)

    def error(self) -> float:
        """Squared error on what is measured, with noise that is never trained on, in units of the base's."""
        return self._error() / self._base

    @torch.no_grad()
    def _error(self) -> float:
        size, total = self.settings.part, 0.0
        for start in range(0, len(self._measured), size):
            part = self._measured[start : start + size]
            total += float(self.loss(part)) * len(part)
        return total / len(self._measured)

    def _squares(self, part: Shown) -> Tensor:
        """Weighted mean squared error of each picture."""
        runner = self.student.runner
        predicted = runner(part.states, torch.ones(len(part)))
        error = (predicted - part.target.to(predicted.device)).square().flatten(1).mean(1)
        return error * part.weights.to(error.device)

    def _show(self, rows: Sequence[int], places: Tensor, generator: torch.Generator, hidden: Sequence[bool]) -> Shown:
        runner = self.student.runner
        scheduler = runner.pipeline.scheduler
        latents = self.latents[list(rows)]
        noise = torch.randn(latents.shape, generator=generator)
        if self.settings.noise_offset:
            shift = torch.randn((*latents.shape[:2], *(1 for _ in latents.shape[2:])), generator=generator)
            noise = noise + self.settings.noise_offset * shift
        steps = int(scheduler.config.num_train_timesteps)
        times = (places * steps).floor().clamp(max=steps - 1)
        target = _packed(runner, target_of(scheduler, latents, noise, times))
        noisy = _packed(runner, noisy_of(scheduler, latents, noise, times))
        like, its_time = self.like
        count = len(rows)
        inputs = {name: value.expand(count, *value.shape[1:]) for name, value in like.inputs.items()}
        inputs |= {name: noisy for name in _LATENTS if name in inputs}
        given = like.inputs["timestep"]
        inputs["timestep"] = (times * (float(given[0]) / its_time)).to(given.dtype)
        every = [*self.examples, *self.measured]
        told = tuple(None if gone else every[row].caption for row, gone in zip(rows, hidden, strict=True))
        states = replace(like, inputs=inputs, prompts=told, place=times / steps, scale=torch.ones(count))
        weights = min_snr_weights(scheduler, times, self.settings.min_snr)
        return Shown(states, target, weights, tuple(every[row].style for row in rows))


def _side(runner: Runner) -> int:
    """Side of the pipeline's own pictures, pixels."""
    config, pipe = runner.denoiser.config, runner.pipeline
    side: Any = getattr(config, "sample_size", None) or getattr(pipe, "default_sample_size", None) or 64
    return int(side) * int(pipe.vae_scale_factor)


def _packs(runner: Runner) -> bool:
    return hasattr(runner.pipeline, "_pack_latents")


def _packed(runner: Runner, latents: Tensor) -> Tensor:
    """Latents as the denoiser takes them: in patches, where the pipeline packs them so."""
    if not _packs(runner):
        return latents
    packed: Tensor = runner.pipeline._pack_latents(latents, *latents.shape)
    return packed


def _latents_of(like: States, runner: Runner) -> None:
    """Raise CannotRun where the denoiser's latents are neither pictures nor packed by the pipeline."""
    name = next((name for name in _LATENTS if name in like.inputs), None)
    if name is None or (like.inputs[name].ndim != 4 and not _packs(runner)):
        raise CannotRun(
            "makes its latents in a way that is not known here", file=runner.pair.base.path,
            found=type(runner.pipeline).__name__,
        )  # fmt: skip
