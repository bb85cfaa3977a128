"""The grammar of the world: a scene is one or two things, a place and a background; a prompt says all of it.

``a small red star left of a large blue square, on sand, neon style``
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = ("red", "yellow", "green", "blue", "purple", "white")
SIZES = ("small", "large")
BACKGROUNDS = ("sand", "sky", "stone", "night")
STYLES = ("plain", "ink", "neon", "mosaic", "pastel", "clay")
# Words after a lone thing, and between two things, each with what a picture of it looks like.
PLACES = {
    "in the middle": "middle",
    "at the left": "left",
    "at the right": "right",
    "at the top": "top",
    "at the bottom": "bottom",
}
RELATIONS = {"left of": "row", "right of": "row", "above": "column", "below": "column"}
SWAPPED = frozenset({"right of", "below"})
LAYOUTS = (*PLACES.values(), "row", "column")

# What can be asked of a picture, and the possible answers. `first` is the left or upper thing, or the only one.
FACTS: dict[str, tuple[str, ...]] = {
    "layout": LAYOUTS,
    "background": BACKGROUNDS,
    "first_shape": SHAPES,
    "first_colour": COLOURS,
    "first_size": SIZES,
    "second_shape": SHAPES,
    "second_colour": COLOURS,
    "second_size": SIZES,
}
SHARE_OF_PAIRS = 0.65
HELD_OUT_ONE_IN = 16


@dataclass(frozen=True)
class Thing:
    """One thing of a scene, in the grammar's own words."""

    size: str
    colour: str
    shape: str

    def __str__(self) -> str:
        return f"a {self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """One or two things in the order in which the prompt names them.

    Args:
        things: one or two.
        place: a key of `PLACES` for one thing, of `RELATIONS` for two.
        background: one of `BACKGROUNDS`.
    """

    things: tuple[Thing, ...]
    place: str
    background: str

    def prompt(self, style: str | None = None) -> str:
        """The sentence; without ``style`` it does not mention any."""
        first, *rest = self.things
        body = " ".join([str(first), self.place, *map(str, rest)])
        return f"{body}, on {self.background}" + (f", {style} style" if style else "")

    def in_picture_order(self) -> tuple[Thing, ...]:
        """The things from left to right, or from top to bottom."""
        return self.things[::-1] if self.place in SWAPPED else self.things

    def facts(self) -> dict[str, str]:
        """The answers to every question of `FACTS` that this scene has an answer to."""
        answers = {
            "layout": PLACES.get(self.place) or RELATIONS[self.place],
            "background": self.background,
        }
        for name, thing in zip(("first", "second"), self.in_picture_order(), strict=False):
            answers |= {f"{name}_shape": thing.shape, f"{name}_colour": thing.colour, f"{name}_size": thing.size}
        return answers

    def is_held_out(self) -> bool:
        """Whether no training set may contain this scene: decided by its sentence, so the same everywhere."""
        return zlib.crc32(self.prompt().encode()) % HELD_OUT_ONE_IN == 0


def words() -> list[str]:
    """Every word and sign of the grammar, in a fixed order."""
    phrases = [*PLACES, *RELATIONS, *SIZES, *COLOURS, *SHAPES, *BACKGROUNDS, *STYLES, "a on style ,"]
    return list(dict.fromkeys(word for phrase in phrases for word in phrase.split()))


def parse(prompt: str) -> tuple[Scene, str | None]:
    """The scene and the style of a sentence of the grammar.

    Raises:
        ValueError: the sentence is not of the grammar; the message quotes it.
    """
    parts = prompt.split(", ")
    style = parts[2].removesuffix(" style") if len(parts) == 3 else None
    body = parts[0].split()
    things = [Thing(*body[at + 1 : at + 4]) for at, word in enumerate(body) if word == "a" and len(body) >= at + 4]
    place = " ".join(body[4 : len(body) - 4 * (len(things) - 1)])
    scene = Scene(tuple(things), place, parts[1].removeprefix("on ") if len(parts) > 1 else "")
    known = place in (PLACES if len(things) == 1 else RELATIONS) and (style is None or style in STYLES)
    if (
        not known
        or scene.prompt(style) != prompt
        or not all(scene.facts()[name] in FACTS[name] for name in scene.facts())
    ):
        raise ValueError(f"not a sentence of the miniature's grammar: {prompt!r}")
    return scene, style


def draw(rng: random.Random) -> Scene:
    """One scene at random: two things in `SHARE_OF_PAIRS` of all cases."""
    pair = rng.random() < SHARE_OF_PAIRS
    things = tuple(Thing(rng.choice(SIZES), rng.choice(COLOURS), rng.choice(SHAPES)) for _ in range(2 if pair else 1))
    return Scene(things, rng.choice(list(RELATIONS if pair else PLACES)), rng.choice(BACKGROUNDS))


def scenes(seed: int, *, held_out: bool = False) -> Iterator[Scene]:
    """An endless row of scenes from a seed, either all for training or all held out."""
    rng = random.Random(seed)
    while True:
        scene = draw(rng)
        if scene.is_held_out() == held_out:
            yield scene
