"""Pictures and prompts, encoded once: latents and text states, kept on disk and read when a step wants them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from si_hub.errors import CannotRun
from si_hub.storage.tensors import Tensor as Stored
from si_hub.training.buckets import bucket_size
from si_hub.training.calls import denoiser_name
from si_hub.training.encoding import encode_picture, encode_prompts, text_lengths
from si_hub.training.gallery import Captioned, open_picture
from si_hub.training.quiet import load_quietly
from si_hub.work.folder import Work, WorkEntry
from si_hub.work.processes import Processes
from si_hub.work.seeds import seed_of

#: Steps of the base's own sampling of what is to be preserved.
_STEPS = 20
#: EXIF's key for how a camera was held, and the least of its values that are a quarter turn.
_ORIENTATION, _SIDEWAYS = 0x0112, 5
#: Prompts that are encoded at once.
_TOGETHER = 8


def with_trigger(caption: str, word: str | None) -> str:
    """A caption with the word that calls the style, where no text encoder cuts it off: first.

    A caption that has it, as a word of its own, stays as it is.
    """
    if word is None or re.search(rf"(?<!\w){re.escape(word)}(?!\w)", caption):
        return caption
    return f"{word}, {caption}" if caption else word


def size_step(pipeline: Any) -> int:
    """What the sides of pictures are multiples of, in pixels."""
    denoiser = getattr(pipeline, denoiser_name(pipeline))
    blocks = getattr(denoiser.config, "block_out_channels", None)
    patches = 2 ** (len(blocks) - 1) if blocks else max(2, int(getattr(denoiser.config, "patch_size", 2)))
    return int(pipeline.vae_scale_factor) * patches


def upright_size(picture: Any) -> tuple[int, int]:
    """Width and height of a picture as it is meant to be seen: a camera may have been turned."""
    width, height = picture.size
    held = picture.getexif().get(_ORIENTATION)
    return (height, width) if isinstance(held, int) and held >= _SIDEWAYS else (width, height)


def usual_resolution(pipeline: Any, pictures: Sequence[Captioned]) -> int:
    """The pipeline's own resolution, or the pictures' where most are smaller: nothing is gained by enlarging them."""
    denoiser = getattr(pipeline, denoiser_name(pipeline))
    side = getattr(denoiser.config, "sample_size", None) or getattr(pipeline, "default_sample_size", None) or 64
    sides = []
    for one in pictures:
        with open_picture(one.file) as picture:
            sides.append((picture.width * picture.height) ** 0.5)
    step = size_step(pipeline)
    middle = sorted(sides)[len(sides) // 2]
    own = int(side) * int(pipeline.vae_scale_factor)
    return int(min(own, max(step, round(middle / step) * step)))


@dataclass(slots=True)
class EncodedPictures:
    """Latents and text states of a training, by number and by prompt.

    Attributes:
        pipeline: whose autoencoder and text encoders make them.
        work: where they are kept.
        crew: the processes that share making them.
    """

    pipeline: Any
    work: Work
    crew: Processes
    _latents: dict[str, WorkEntry] = field(default_factory=dict, init=False)
    _texts: dict[str | None, WorkEntry] = field(default_factory=dict, init=False)

    def latents(self, name: str) -> Tensor:
        """``[channels, height, width]`` of what was kept under a name."""
        return self._latents[name].tensors["latents"].torch()

    def text(self, prompts: Sequence[str | None]) -> dict[str, Tensor]:
        """The denoiser's text arguments, one row a prompt."""
        rows = [self._texts[prompt].tensors for prompt in prompts]
        return {name: torch.stack([row[name].torch() for row in rows]) for name in rows[0]}

    def add_pictures(self, kind: str, pictures: Sequence[Captioned], resolution: int, *, buckets: bool) -> list[str]:
        """Encode pictures that are not kept yet.

        Args:
            kind: tells them from others.
            pictures: which.
            resolution: side of a square one.
            buckets: whether they keep their shape, about.

        Returns:
            Their names.
        """
        step = size_step(self.pipeline)

        def encode(place: int) -> dict[str, Tensor]:
            file = pictures[place].file
            with open_picture(file) as picture:
                width, height = upright_size(picture)
            height, width = bucket_size(width, height, resolution, step) if buckets else (resolution, resolution)
            return {"latents": encode_picture(self.pipeline, file, height, width)[0]}

        return self._add(kind, len(pictures), encode)

    def add_own(self, prompts: Sequence[str], resolution: int, seed: int) -> list[str]:
        """The base's own pictures of prompts, as latents, one a prompt; the pipeline must be the base.

        Args:
            prompts: in turn.
            resolution: side of each.
            seed: of their noise.

        Returns:
            Their names.
        """

        def draw(place: int) -> dict[str, Tensor]:
            generator = torch.Generator().manual_seed(seed_of(seed, "own picture", place))
            found = self.pipeline(
                prompt=prompts[place], height=resolution, width=resolution, num_inference_steps=_STEPS,
                generator=generator, output_type="latent", **text_lengths(self.pipeline),
            ).images  # fmt: skip
            if found.ndim == 3:
                found = self.pipeline._unpack_latents(found, resolution, resolution, self.pipeline.vae_scale_factor)
            return {"latents": found[0].float().cpu()}

        return self._add("own picture", len(prompts), draw)

    def add_texts(self, prompts: Iterable[str | None]) -> None:
        """Encode prompts that are not kept yet; ``None`` is the null prompt."""
        wanted = list(dict.fromkeys(prompts))
        groups = [wanted[start : start + _TOGETHER] for start in range(0, len(wanted), _TOGETHER)]
        mine = self.crew.share(groups, lambda group: float(len(group)))
        for group in mine:
            missing = [prompt for prompt in group if self.work.load(_text_name(prompt)) is None]
            if missing:
                for prompt, row in zip(missing, self._encode(missing), strict=True):
                    self._keep(_text_name(prompt), row)
        self.crew.wait()
        self._texts |= {prompt: self._entry(_text_name(prompt)) for prompt in wanted}

    def cut_off(self, prompts: Iterable[str]) -> int:
        """How many prompts are longer than the first text encoder reads."""
        tokenizer = self.pipeline.tokenizer
        with load_quietly():
            return sum(len(tokenizer(one).input_ids) > tokenizer.model_max_length for one in set(prompts))

    @torch.no_grad()
    def _encode(self, prompts: Sequence[str | None]) -> list[dict[str, Tensor]]:
        with load_quietly():  # Of each prompt that is too long, the libraries say so; `cut_off` counts them.
            found = live_texts(self.pipeline, prompts)
        return [{name: value[row].float().cpu() for name, value in found.items()} for row in range(len(prompts))]

    def _add(self, kind: str, count: int, make: Callable[[int], dict[str, Tensor]]) -> list[str]:
        names = [f"{kind} {place}" for place in range(count)]
        for place in self.crew.share(range(count), lambda _: 1.0):
            if self.work.load(names[place]) is None:
                self._keep(names[place], make(place))
        self.crew.wait()
        self._latents |= {name: self._entry(name) for name in names}
        return names

    def _keep(self, name: str, tensors: dict[str, Tensor]) -> None:
        self.work.save(name, {key: Stored.from_torch(value.contiguous()) for key, value in tensors.items()}, {})

    def _entry(self, name: str) -> WorkEntry:
        entry = self.work.load(name)
        assert entry is not None
        return entry


def live_texts(pipeline: Any, prompts: Sequence[str | None]) -> dict[str, Tensor]:
    """The denoiser's text arguments, computed now; gradients flow into the text encoders.

    Raises:
        CannotRun: ``encode_prompt`` returns what is not known here.
    """
    device = next(getattr(pipeline, denoiser_name(pipeline)).parameters()).device
    found = encode_prompts(pipeline, prompts, device, text_lengths(pipeline).get("max_sequence_length"))
    if found is None:
        raise CannotRun("the pipeline's encode_prompt returns something unknown", found=type(pipeline).__name__)
    return found


def _text_name(prompt: str | None) -> str:
    return "text of nothing" if prompt is None else f"text {hashlib.sha256(prompt.encode()).hexdigest()}"
