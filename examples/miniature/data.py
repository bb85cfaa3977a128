"""Rendered training sets, drawn once from a seed and kept in the work folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .progress import track
from .render import SIDE, pixels, render
from .scenes import FACTS, STYLES, Scene, scenes

PER_STYLE = 5000
PLAIN, PLAIN_SEED = 24_000, 1000  # the scenes that every base learns from
ABSENT = -100  # the answer of a question that a scene does not have; cross entropy's own ignore index


@dataclass(frozen=True)
class Pictures:
    """Rendered scenes of one style.

    Args:
        images: uint8 ``[count, 3, 32, 32]``.
        scenes: what they show.
        style: how.
    """

    images: NDArray[np.uint8]
    scenes: Sequence[Scene]
    style: str

    def floats(self) -> torch.Tensor:
        """``[count, 3, 32, 32]`` in -1 … 1, as the autoencoder and the judges take them."""
        return to_floats(torch.from_numpy(self.images))


def to_floats(images: torch.Tensor) -> torch.Tensor:
    """uint8 0 … 255 → float32 -1 … 1."""
    return images.float() / 127.5 - 1.0


def answers(scene: Scene) -> list[int]:
    """The scene's facts as indices, in the order of `FACTS`; `ABSENT` where there is no second thing."""
    facts = scene.facts()
    return [options.index(facts[name]) if name in facts else ABSENT for name, options in FACTS.items()]


def labels(pictures: Pictures) -> torch.Tensor:
    """``[count, facts + 1]`` indices of the right answers, the style last."""
    style = STYLES.index(pictures.style)
    return torch.tensor([[*answers(scene), style] for scene in pictures.scenes])


def draw_set(style: str, count: int, seed: int, work: Path, *, held_out: bool = False) -> Pictures:
    """``count`` rendered scenes; the same arguments give the same pictures.

    Pictures are kept as ``work/pictures/*.npy``, scenes are drawn again from their seed.
    """
    drawn = list(islice(scenes(seed, held_out=held_out), count))
    file = work / "pictures" / f"{style}-{count}-{seed}{'-held-out' if held_out else ''}.npy"
    if not file.exists():
        images = np.empty((count, 3, SIDE, SIDE), dtype=np.uint8)
        for index, scene in track(list(enumerate(drawn)), f"pictures: {style}"):
            images[index] = pixels(render(scene, style, seed=seed + index))
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f"{file.name}.{os.getpid()}.part")
        with part.open("wb") as out:
            np.save(out, images)
        part.replace(file)
    return Pictures(np.load(file), drawn, style)


def style_pictures(style: str, work: Path) -> Pictures:
    """The pictures of one style from which the autoencoder, the judges and the style's checkpoint learn."""
    return draw_set(style, PER_STYLE, seed=STYLES.index(style), work=work)


def all_styles(work: Path) -> list[Pictures]:
    """`style_pictures` of every style."""
    return [style_pictures(style, work) for style in STYLES]


def plain_scenes() -> list[Scene]:
    """The scenes from which the bases learn."""
    return list(islice(scenes(PLAIN_SEED), PLAIN))


def plain_pictures(work: Path) -> Pictures:
    """What the bases learn from: `plain_scenes` in the plain style."""
    return draw_set("plain", PLAIN, seed=PLAIN_SEED, work=work)
