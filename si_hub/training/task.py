"""The task of a training from pictures: noisy pictures, and what the model should say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from si_hub.training.calls import denoiser_name, predict
from si_hub.training.encoded import EncodedPictures, live_texts
from si_hub.training.noising import Objective, mix_noise
from si_hub.training.settings import TrainSettings
from si_hub.work.seeds import seed_of


@dataclass(frozen=True, slots=True)
class Lesson:
    """A picture to learn from.

    Attributes:
        latents: the name of its latents.
        prompt: what it is said to show.
        branch: the branch that is to learn it, alone; ``None`` where the routers choose.
    """

    latents: str
    prompt: str
    branch: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A noisy picture of a batch.

    Attributes:
        lesson: the picture.
        prompt: what the model is told; ``None`` is the null prompt.
        time: how noisy.
        noise: as the latents.
        weight: of its error.
    """

    lesson: Lesson
    prompt: str | None
    time: float
    noise: Tensor
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Samples:
    """A batch: of pictures to learn, and beside each perhaps one of the base's own, to be left alone."""

    rows: Sequence[Sample]
    own: Sequence[Sample] = ()

    def __getitem__(self, rows: slice) -> Samples:
        return Samples(self.rows[rows], self.own[rows])


class Learner(Protocol):
    """What a task needs to know of what is trained."""

    @property
    def leaves(self) -> Mapping[str, nn.Parameter]:
        """Every trainable tensor."""

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the branches."""

    def choose(self, branch: str | None) -> None:
        """Let one branch act alone."""

    def away(self) -> AbstractContextManager[None]:
        """The pipeline without it while the block runs."""


class Untrained:
    """Nobody: the base as it is."""

    leaves: Mapping[str, nn.Parameter] = MappingProxyType({})
    branches: tuple[str, ...] = ()

    def choose(self, branch: str | None) -> None:
        """There is nothing to choose."""

    def away(self) -> AbstractContextManager[None]:
        """The base, as ever."""
        return nullcontext()


@dataclass(slots=True)
class PictureTask:
    """Predict what the scheduler's objective says, in pictures.

    Attributes:
        pupil: the adapter.
        encoded: latents and texts.
        lessons: what is learned from.
        own: pictures of the base that are to stay; may be empty.
        unseen: what the error is measured with; the lessons themselves where there is nothing else.
        objective: of the pipeline's scheduler.
        settings: how.
        accelerator: accelerate's.
        device: where the denoiser is.
    """

    pupil: Learner
    encoded: EncodedPictures
    lessons: Sequence[Lesson]
    own: Sequence[Lesson]
    unseen: Sequence[Lesson]
    objective: Objective
    settings: TrainSettings
    accelerator: Any
    device: torch.device
    _measured: Samples | None = field(default=None, init=False)
    _unit: float = field(default=0.0, init=False)

    @property
    def leaves(self) -> Mapping[str, nn.Parameter]:
        """The adapter's tensors; routers that no sample asks learn nothing."""
        unasked = self.settings.router == "fixed" and bool(self.pupil.branches)
        return {name: leaf for name, leaf in self.pupil.leaves.items() if not (unasked and ".router" in name)}

    def draw(self, step: int, count: int) -> Samples:
        """Pictures in turn, each once before any comes twice; times spread over the whole schedule."""
        generator = torch.Generator().manual_seed(seed_of(self.settings.seed, "draw", step))
        rows = self._noisy(self._turn(self.lessons, step * count, count, "turn"), generator)
        if not self.own:
            return Samples(rows)
        kept = self._turn(self.own, step * count, count, "own turn")
        kept = [replace(one, branch=row.lesson.branch) for one, row in zip(kept, rows, strict=True)]
        own = self._noisy(kept, generator)
        return Samples(rows, [replace(one, weight=one.weight * self.settings.preserve_weight) for one in own])

    def _turn(self, lessons: Sequence[Lesson], first: int, count: int, what: str) -> list[Lesson]:
        """The lessons from a place on, in an endless row of shuffled rounds."""
        found = []
        for place in range(first, first + count):
            round_, within = divmod(place, len(lessons))
            shuffled = torch.Generator().manual_seed(seed_of(self.settings.seed, what, round_))
            found.append(lessons[int(torch.randperm(len(lessons), generator=shuffled)[within])])
        return found

    def _noisy(self, lessons: Sequence[Lesson], generator: torch.Generator, *, told: bool = False) -> list[Sample]:
        settings, objective = self.settings, self.objective
        spread = settings.spread or ("middle" if objective.kept is None else "uniform")
        times = objective.times(len(lessons), generator, spread)
        hidden = torch.rand(len(lessons), generator=generator) < (0.0 if told else settings.dropout)
        weights = objective.weight(times, settings.min_snr)
        found = []
        for place, lesson in enumerate(lessons):
            noise = torch.randn(self.encoded.latents(lesson.latents).shape, generator=generator)
            if settings.noise_offset:
                noise = noise + settings.noise_offset * torch.randn(len(noise), 1, 1, generator=generator)
            prompt = None if hidden[place] else lesson.prompt
            found.append(Sample(lesson, prompt, float(times[place]), noise, float(weights[place])))
        return found

    def loss(self, part: Samples) -> Tensor:
        """Mean squared error of a part, each sample as its weight says, and that of the base's own pictures."""
        loss = self._squares(part.rows)
        return loss + self._squares(part.own) if part.own else loss

    def _squares(self, rows: Sequence[Sample]) -> Tensor:
        groups: dict[tuple[Any, ...], list[Sample]] = {}
        for row in rows:
            groups.setdefault((row.noise.shape, row.lesson.branch), []).append(row)
        total = torch.zeros((), device=self.device)
        for (_, branch), group in groups.items():
            if self.pupil.branches:
                self.pupil.choose(branch)
            total = total + self._group(group) * (len(group) / len(rows))
        return total

    def _group(self, rows: Sequence[Sample]) -> Tensor:
        """Pictures of one size and branch, in one call of the denoiser."""
        pipeline, objective = self.encoded.pipeline, self.objective
        latents = torch.stack([self.encoded.latents(row.lesson.latents) for row in rows]).to(self.device)
        noise = torch.stack([row.noise for row in rows]).to(self.device)
        times = torch.tensor([row.time for row in rows])
        prompts = [row.prompt for row in rows]
        text = live_texts(pipeline, prompts) if self.settings.text_encoder else self.encoded.text(prompts)
        noisy = mix_noise(objective.kept, objective.steps, latents, noise, times)
        denoiser = getattr(pipeline, denoiser_name(pipeline))
        found = predict(pipeline, denoiser, noisy, times.to(self.device), text)
        wanted = objective.answer(latents, noise, times)
        weights = torch.tensor([row.weight for row in rows], device=self.device)
        return ((found - wanted).square().flatten(1).mean(1) * weights).mean()

    @torch.no_grad()
    def error(self) -> float:
        """Error on unseen pictures, or on the lessons with noise of their own, divided by the base's own."""
        if self._measured is None:
            generator = torch.Generator().manual_seed(seed_of(self.settings.seed, "measured", 0))
            count = max(self.settings.measured, 1)
            plain = self._noisy(self._turn(self.unseen, 0, count, "measured turn"), generator, told=True)
            self._measured = Samples([replace(row, weight=1.0) for row in plain])
            with self.pupil.away():
                self._unit = self._mean(self._measured)
        return self._mean(self._measured) / self._unit

    def _mean(self, rows: Samples) -> float:
        size, total = self.settings.part, 0.0
        for start in range(0, len(rows.rows), size):
            part = rows[start : start + size]
            with self.accelerator.autocast():
                total += float(self._squares(part.rows)) * len(part.rows)
        return total / len(rows.rows)
