"""Pictures of one's own to learn from, instead of the tuned model's sampling: encoded, noised, and shown to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from si_hub.distill.running import trajectory
from si_hub.distill.running.runner import Runner
from si_hub.distill.running.states import States
from si_hub.distill.training.lessons import Lessons, teach
from si_hub.distill.work.seeds import seed_of
from si_hub.errors import CannotRun, FormatError, MissingFile, NotUtf8
from si_hub.storage.files import open_regular
from si_hub.words import label

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
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
        latents = torch.cat([encode_picture(runner, file, height, width) for file in files])
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


def pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, in the order of their names."""
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURE_SUFFIXES)


def check_pictures(folder: str | Path) -> None:
    """Look at what a folder has before any work.

    Raises:
        MissingFile: no such folder, or no picture in it.
        FormatError, FileAccessError: a picture or caption that cannot be read.
    """
    for file in some_pictures(folder):
        with open_picture(file):
            pass
        caption(file)


def some_pictures(folder: str | Path) -> list[Path]:
    """The pictures of a folder.

    Raises:
        MissingFile: no such folder, or no picture in it.
    """
    files = pictures(Path(folder))
    if not files:
        raise MissingFile("no folder with pictures", file=folder, expected=", ".join(sorted(PICTURE_SUFFIXES)))
    return files


@contextmanager
def open_picture(file: Path) -> Iterator[Any]:
    """A picture of which the kind and size are known; the rest is read when it is used, in the block.

    Raises:
        FormatError: no picture, one that ends early, or one of absurdly many pixels.
        FileAccessError: no permission.
    """
    from PIL import Image

    with open(open_regular(file), "rb") as data:
        try:
            with Image.open(data) as picture:
                yield picture
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise FormatError("is no picture that can be read", file=file, hint="Take it out.") from error


def caption_file(picture: Path) -> Path:
    """Where a picture's caption is, if it has one."""
    return picture.with_suffix(".txt")


def caption(file: Path) -> str | None:
    """What the text beside a picture says.

    Raises:
        NotUtf8: no text.
    """
    text = caption_file(file)
    try:
        return text.read_text(encoding="utf-8").strip() or None if text.is_file() else None
    except UnicodeDecodeError as error:
        raise NotUtf8("is no UTF-8 text", file=text) from error


@torch.no_grad()
def encode_picture(runner: Runner, file: Path, height: int, width: int) -> Tensor:
    """Scaled latents ``[1, channels, ...]`` of a picture, turned upright, cut to the middle and resized."""
    from PIL import ImageOps

    vae = runner.pipeline.vae
    with open_picture(file) as picture:
        fitted = ImageOps.fit(ImageOps.exif_transpose(picture).convert("RGB"), (width, height))
    pixels = runner.pipeline.image_processor.preprocess(fitted, height, width).to(runner.device, vae.dtype)
    mean: Tensor = vae.encode(pixels).latent_dist.mean
    shifted = mean - (getattr(vae.config, "shift_factor", None) or 0.0)
    return (shifted * float(vae.config.scaling_factor)).float().cpu()


def add_noise(scheduler: Any, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """What a denoiser is given at a time: √ᾱ x + √(1−ᾱ) ε, or (1−σ) x + σ ε of flow-matching models."""
    kept = getattr(scheduler, "alphas_cumprod", None)
    if kept is None:
        share = (times / scheduler.config.num_train_timesteps).view(-1, 1, 1, 1)
        return torch.lerp(latents, noise, share)
    alpha: Tensor = kept.float()[times.long()].view(-1, 1, 1, 1)
    return alpha.sqrt() * latents + (1.0 - alpha).sqrt() * noise
