"""Sizes near a picture's own shape, of one area at most."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from si_hub.training.buckets import bucket_size


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((1000, 1000), (512, 512)), ((1920, 1080), (384, 640)), ((1080, 1920), (640, 384)), ((10, 9000), (768, 320))],
)
def test_pictures_of_usual_shapes(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert bucket_size(*size, 512, 64) == wanted


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(64, 1024), st.sampled_from([8, 16, 64]))
def test_sides_are_multiples_and_the_area_is_at_most_the_square_s(w: int, h: int, side: int, step: int) -> None:
    high, wide = bucket_size(w, h, side, step)
    assert high % step == wide % step == 0
    assert min(high, wide) >= step
    assert high * wide <= max(side * side, step * step)
    assert (high > wide) <= (h > w)
    assert (wide > high) <= (w > h)
