"""Draws a scene with Pillow: 32×32 pixels, in a plain style and five others, three times finer before it is reduced."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from .scenes import STYLES, Scene, Thing

SIDE = 32
FINER = 3
FULL = SIDE * FINER
RADIUS = {"small": 4.3, "large": 7.0}
JITTER = 1.0
# Where the centres are, in pixels, by the scene's layout: one or two of them.
CENTRES: dict[str, tuple[tuple[float, float], ...]] = {
    "middle": ((16, 16),),
    "left": ((8.5, 16),),
    "right": ((23.5, 16),),
    "top": ((16, 8.5),),
    "bottom": ((16, 23.5),),
    "row": ((8, 16), (24, 16)),
    "column": ((16, 8), (16, 24)),
}

Rgb: TypeAlias = tuple[int, int, int]
Mask: TypeAlias = Image.Image

COLOURS: dict[str, Rgb] = {
    "red": (215, 35, 40),
    "yellow": (250, 215, 40),
    "green": (40, 155, 65),
    "blue": (35, 85, 215),
    "purple": (150, 50, 175),
    "white": (250, 250, 250),
}
BACKGROUNDS: dict[str, Rgb] = {
    "sand": (205, 172, 115),
    "sky": (150, 200, 235),
    "stone": (128, 128, 128),
    "night": (40, 40, 75),
}
INK_BACKGROUNDS: dict[str, Rgb] = {
    "sand": (238, 214, 165),
    "sky": (190, 222, 240),
    "stone": (205, 202, 198),
    "night": (140, 138, 172),
}
NEON_BACKGROUNDS: dict[str, Rgb] = {
    "sand": (80, 50, 5),
    "sky": (0, 60, 95),
    "stone": (62, 62, 62),
    "night": (22, 5, 45),
}
INK: Rgb = (25, 20, 20)


def mix(one: Rgb, other: Rgb, share: float) -> Rgb:
    """``one`` with ``share`` of ``other``."""
    return tuple(round(a + (b - a) * share) for a, b in zip(one, other, strict=True))  # type: ignore[return-value]


def star_points(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """The ten corners of a five-pointed star."""
    return [
        (
            x + radius * (1.0 if k % 2 == 0 else 0.42) * math.sin(math.pi * k / 5),
            y - radius * (1.0 if k % 2 == 0 else 0.42) * math.cos(math.pi * k / 5),
        )
        for k in range(10)
    ]


def _box(x: float, y: float, rx: float, ry: float) -> list[float]:
    return [x - rx, y - ry, x + rx, y + ry]


def _ring(pen: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    pen.ellipse(_box(x, y, r, r), fill=255)
    pen.ellipse(_box(x, y, 0.5 * r, 0.5 * r), fill=0)


def _cross(pen: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    pen.rectangle(_box(x, y, r, 0.34 * r), fill=255)
    pen.rectangle(_box(x, y, 0.34 * r, r), fill=255)


SHAPES: dict[str, Callable[[ImageDraw.ImageDraw, float, float, float], None]] = {
    "circle": lambda pen, x, y, r: pen.ellipse(_box(x, y, r, r), fill=255),
    "square": lambda pen, x, y, r: pen.rectangle(_box(x, y, 0.86 * r, 0.86 * r), fill=255),
    "triangle": lambda pen, x, y, r: pen.polygon([(x, y - r), (x + r, y + 0.8 * r), (x - r, y + 0.8 * r)], fill=255),
    "star": lambda pen, x, y, r: pen.polygon(star_points(x, y + 0.05 * r, 1.12 * r), fill=255),
    "cross": _cross,
    "ring": _ring,
}


def mask_of(thing: Thing, x: float, y: float) -> Mask:
    """White where the thing is, on the fine canvas; ``x`` and ``y`` in pixels of the picture."""
    mask = Image.new("L", (FULL, FULL))
    SHAPES[thing.shape](ImageDraw.Draw(mask), x * FINER, y * FINER, RADIUS[thing.size] * FINER)
    return mask


def grow(mask: Mask, pixels: float) -> Mask:
    """The mask with a rim of ``pixels`` of the picture."""
    return mask.filter(ImageFilter.MaxFilter(2 * round(pixels * FINER) + 1))


def move(mask: Mask, pixels: float) -> Mask:
    """The mask moved right and down by ``pixels`` of the picture."""
    canvas = Image.new("L", mask.size)
    canvas.paste(mask, (round(pixels * FINER), round(pixels * FINER)))
    return canvas


def blur(mask: Image.Image, pixels: float) -> Image.Image:
    return mask.filter(ImageFilter.GaussianBlur(pixels * FINER))


@lru_cache
def pattern(name: str) -> Mask:
    """A fixed texture over the whole fine canvas, white where it applies."""
    y, x = np.mgrid[0:FULL, 0:FULL] / FINER
    textures = {
        "hatch": ((x + y) % 4 < 1.4) * 255.0,
        "scratch": ((x - y) % 8 < 1.0) * 255.0,
        "grout": ((x % 4 < 0.9) | (y % 4 < 0.9)) * 255.0,
        "checker": ((x // 4 + y // 4) % 2 < 1) * 255.0,
        "down": y / SIDE * 255.0,
    }
    return Image.fromarray(textures[name].astype(np.uint8))


def flat(colour: Rgb) -> Image.Image:
    return Image.new("RGB", (FULL, FULL), colour)


def shade(colour: Rgb, other: Rgb, mask: Mask) -> Image.Image:
    """``colour``, and ``other`` where the mask is white."""
    return Image.composite(flat(other), flat(colour), mask)


Shape: TypeAlias = tuple[Thing, Mask]


def plain(background: str, shapes: Sequence[Shape]) -> Image.Image:
    """Flat colour on flat colour."""
    picture = flat(BACKGROUNDS[background])
    for thing, mask in shapes:
        picture.paste(COLOURS[thing.colour], mask=mask)
    return picture


def ink(background: str, shapes: Sequence[Shape]) -> Image.Image:
    """A dark outline, hatched fill, tinted and scratched paper."""
    paper = INK_BACKGROUNDS[background]
    picture = shade(paper, mix(paper, INK, 0.22), pattern("scratch"))
    for thing, mask in shapes:
        colour = COLOURS[thing.colour]
        picture.paste(INK, mask=grow(mask, 0.9))
        picture.paste(shade(colour, mix(colour, INK, 0.55), pattern("hatch")), mask=mask)
    return picture


def neon(background: str, shapes: Sequence[Shape]) -> Image.Image:
    """Glowing contours in the dark."""
    dark = NEON_BACKGROUNDS[background]
    picture = flat(dark)
    for thing, mask in shapes:
        colour = COLOURS[thing.colour]
        glow = ImageChops.multiply(blur(grow(mask, 0.8), 2.0), Image.new("L", mask.size, 190))
        picture.paste(colour, mask=glow)
        picture.paste(mix(colour, (255, 255, 255), 0.35), mask=grow(mask, 0.3))
        inner = ImageChops.invert(grow(ImageChops.invert(mask), 0.9))
        picture.paste(mix(colour, (0, 0, 0), 0.68), mask=inner)
    return picture


def mosaic(background: str, shapes: Sequence[Shape]) -> Image.Image:
    """Tiles, every other one lighter, with grout between them."""
    picture = plain(background, shapes)
    lighter = Image.blend(picture, flat((255, 255, 255)), 0.22)
    picture = Image.composite(lighter, picture, pattern("checker"))
    return Image.composite(Image.blend(picture, flat((45, 40, 35)), 0.45), picture, pattern("grout"))


def pastel(background: str, shapes: Sequence[Shape]) -> Image.Image:
    """Pale, soft-edged, lighter towards the ground."""
    pale = mix(BACKGROUNDS[background], (255, 255, 255), 0.4)
    picture = shade(mix(pale, (255, 190, 215), 0.25), mix(pale, (255, 255, 255), 0.45), pattern("down"))
    for thing, mask in shapes:
        soft = blur(mask, 0.7)
        picture.paste(
            (255, 255, 255), mask=ImageChops.multiply(blur(grow(mask, 1.0), 0.8), Image.new("L", mask.size, 120))
        )
        picture.paste(mix(COLOURS[thing.colour], (255, 255, 255), 0.38), mask=soft)
    return picture


def clay(background: str, shapes: Sequence[Shape]) -> Image.Image:
    """Lit from above left, with a shadow on the ground."""
    ground = BACKGROUNDS[background]
    picture = shade(mix(ground, (255, 255, 255), 0.12), mix(ground, (0, 0, 0), 0.32), pattern("down"))
    for thing, mask in shapes:
        colour = COLOURS[thing.colour]
        shadow = blur(move(mask, 2), 0.7)
        picture.paste(mix(ground, (0, 0, 0), 0.8), mask=ImageChops.multiply(shadow, Image.new("L", mask.size, 200)))
        picture.paste(mix(colour, (0, 0, 0), 0.42), mask=mask)
        lit = ImageChops.multiply(mask, move(mask, -2))
        picture.paste(colour, mask=blur(lit, 0.5))
        spot = ImageChops.multiply(lit, ImageChops.subtract(mask, move(mask, 1)))
        picture.paste(mix(colour, (255, 255, 255), 0.6), mask=blur(spot, 0.3))
    return picture


PAINTERS: dict[str, Callable[[str, Sequence[Shape]], Image.Image]] = dict(
    zip(STYLES, (plain, ink, neon, mosaic, pastel, clay), strict=True)
)


def render(scene: Scene, style: str = "plain", seed: int = 0) -> Image.Image:
    """The picture, RGB 32×32. ``seed`` moves each thing by up to a pixel, the same way in every style."""
    rng = random.Random(seed)
    shapes = [
        (thing, mask_of(thing, x + rng.uniform(-JITTER, JITTER), y + rng.uniform(-JITTER, JITTER)))
        for thing, (x, y) in zip(scene.in_picture_order(), CENTRES[scene.facts()["layout"]], strict=True)
    ]
    return PAINTERS[style](scene.background, shapes).resize((SIDE, SIDE), Image.Resampling.BOX)


def pixels(picture: Image.Image) -> NDArray[np.uint8]:
    """The picture as ``[3, 32, 32]``."""
    return np.ascontiguousarray(np.asarray(picture, dtype=np.uint8).transpose(2, 0, 1))
