"""Pictures of one's own to learn from, instead of the tuned model's sampling: encoded, noised, and shown to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from si_hub.distill.running import trajectory
from si_hub.distill.running.runner import Runner
from si_hub.distill.running.states import States
from si_hub.distill.training.lessons import Lessons, teach
from si_hub.errors import CannotRun
from si_hub.training.encoding import encode_picture
from si_hub.training.gallery import caption, some_pictures
from si_hub.training.noising import add_noise
from si_hub.words import label
from si_hub.work.seeds import seed_of

#: Lessons of one walk.
_COUNT = 160
#: Where a denoiser takes the noisy latents.
_LATENTS = ("sample", "hidden_states")


@dataclass(frozen=True, slots=True)
class Pictures:
    """Makes lessons of pictures at random times.

    Attributes:
        runner: the pipeline.
        latents: ``[pictures, channels, height, width]``, scaled.
        captions: one a picture; ``None`` where there is none.
        like: a state of the pipeline's own sampling, and its time: what else the denoiser is called with.
        batch: states at once.
        seed: of everything random.
    """

    runner: Runner
    latents: Tensor
    captions: tuple[str | None, ...]
    like: tuple[States, float]
    batch: int
    seed: int

    @classmethod
    def of(cls, runner: Runner, folder: str | Path, batch: int, seed: int) -> Pictures:
        """The pictures of a folder; ``name.txt`` beside a picture is its caption.

        Raises:
            MissingFile, FormatError, FileAccessError: no such folder, no picture in it, or one that cannot be read.
            CannotRun: a pipeline whose latents are not pictures' own shape.
        """
        files = some_pictures(folder)
        steps = trajectory.trajectories(runner, ["a"], [0], 2)
        like = steps[0], float(runner.pipeline.scheduler.timesteps[0])
        name = next((name for name in _LATENTS if name in steps[0].inputs), None)
        if name is None or steps[0].inputs[name].ndim != 4:
            raise CannotRun(
                "packs its latents, which pictures are not encoded for", file=runner.pair.base.path,
                found=type(runner.pipeline).__name__, hint=f"Leave {label('images')} out: none are needed.",
            )  # fmt: skip
        height, width = (side * runner.pipeline.vae_scale_factor for side in steps[0].inputs[name].shape[2:])
        latents = torch.cat([encode_picture(runner.pipeline, file, height, width) for file in files])
        return cls(runner, latents, tuple(map(caption, files)), like, batch, seed)

    def __call__(self, number: int) -> Lessons:
        """The lessons of a walk by its number; the pipeline must be the tuned model."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, "pictures", number))
        rows = torch.randint(len(self.latents), (_COUNT,), generator=generator).tolist()
        noise = torch.randn((_COUNT, *self.latents.shape[1:]), generator=generator)
        null = (torch.rand(_COUNT, generator=generator) < trajectory.NULL_SHARE).tolist()
        places = (torch.arange(_COUNT) + torch.rand(_COUNT, generator=generator)) / _COUNT
        scheduler = self.runner.pipeline.scheduler
        steps = int(scheduler.config.num_train_timesteps)
        times = (places * steps).floor().clamp(max=steps - 1)
        noisy = add_noise(scheduler, self.latents[rows], noise, times)
        like, its_time = self.like
        inputs = {name: value.expand(_COUNT, *value.shape[1:]) for name, value in like.inputs.items()}
        inputs |= {name: noisy for name in _LATENTS if name in inputs}
        given = like.inputs["timestep"]
        inputs["timestep"] = (times * (float(given[0]) / its_time)).to(given.dtype)
        scale = torch.tensor([trajectory.noise_scale(scheduler, time) for time in times.tolist()])
        told = tuple(None if hidden else self.captions[row] for row, hidden in zip(rows, null, strict=True))
        states = replace(like, inputs=inputs, prompts=told, place=times / steps, scale=scale)
        return teach(self.runner, states, self.batch)
