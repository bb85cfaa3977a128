"""Pictures in a report, each in a size that can be seen."""

from __future__ import annotations

import pytest
from PIL import Image

from si_hub.report.pictures import enlarge, fit_size


@pytest.mark.parametrize(
    ("side", "expected"), [((32, 16), (256, 128)), ((100, 50), (300, 150)), ((2048, 1024), (512, 256))]
)
def test_small_pictures_are_enlarged_by_whole_numbers_and_large_ones_reduced(
    side: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert fit_size(Image.new("L", side)).size == expected


@pytest.mark.parametrize(("size", "expected"), [((32, 32), (384, 384)), ((100, 60), (400, 240)), ((512, 512),) * 2])
def test_a_small_picture_is_enlarged_by_whole_pixels(size: tuple[int, int], expected: tuple[int, int]) -> None:
    picture = Image.effect_noise(size, 50)
    large = enlarge(picture, 384)
    assert large.size == expected
    times = large.width // picture.width
    assert large.resize(picture.size, Image.Resampling.NEAREST).tobytes() == picture.tobytes()
    assert large.getpixel((times - 1, times - 1)) == picture.getpixel((0, 0))
