"""The renderer: colours are where the scene says, and every style changes the picture."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from examples.miniature.render import BACKGROUNDS, CENTRES, COLOURS, SIDE, pixels, render
from examples.miniature.scenes import STYLES, Scene, Thing, scenes

PAIR = Scene((Thing("large", "red", "square"), Thing("large", "blue", "circle")), "right of", "sand")


def nearest(pixel: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], palette: dict[str, tuple[int, int, int]]) -> str:
    return min(palette, key=lambda name: float(np.abs(pixel.astype(float) - palette[name]).sum()))


def test_a_plain_picture_has_the_named_colour_at_each_centre_and_the_background_in_the_corners() -> None:
    for seed, scene in enumerate(islice(scenes(3), 200)):
        picture = pixels(render(scene, "plain", seed))
        assert picture.shape == (3, SIDE, SIDE)
        for thing, (x, y) in zip(scene.in_picture_order(), CENTRES[scene.facts()["layout"]], strict=True):
            if thing.shape != "ring":
                assert nearest(picture[:, round(y), round(x)], COLOURS) == thing.colour, scene
        for corner in (picture[:, 0, 0], picture[:, -1, 0], picture[:, 0, -1], picture[:, -1, -1]):
            assert nearest(corner, BACKGROUNDS) == scene.background, scene


def test_the_thing_named_right_of_another_is_drawn_right_of_it() -> None:
    picture = pixels(render(PAIR))
    assert nearest(picture[:, 16, 24], COLOURS) == "red"
    assert nearest(picture[:, 16, 8], COLOURS) == "blue"


def test_a_ring_shows_the_background_through_its_middle() -> None:
    picture = pixels(render(Scene((Thing("large", "red", "ring"),), "in the middle", "sky")))
    assert nearest(picture[:, 16, 16], {**COLOURS, **BACKGROUNDS}) == "sky"


@pytest.mark.parametrize("style", STYLES)
def test_a_picture_depends_on_scene_style_and_seed_alone(style: str) -> None:
    assert np.array_equal(pixels(render(PAIR, style, 5)), pixels(render(PAIR, style, 5)))
    assert not np.array_equal(pixels(render(PAIR, style, 5)), pixels(render(PAIR, style, 6)))


def test_every_two_styles_differ_clearly() -> None:
    drawn = [pixels(render(PAIR, style)).astype(float) for style in STYLES]
    distances = [np.abs(one - other).mean() for k, one in enumerate(drawn) for other in drawn[:k]]
    assert min(distances) > 8


def test_a_large_thing_covers_more_than_twice_what_a_small_one_does() -> None:
    covered = {}
    for size in ("small", "large"):
        picture = pixels(render(Scene((Thing(size, "red", "circle"),), "in the middle", "night"))).astype(int)
        covered[size] = int((picture[0] > 127).sum())
    assert covered["large"] > 2 * covered["small"] > 0
