"""Pictures in a report, each in a size that can be seen."""

from __future__ import annotations

import pytest
from PIL import Image

from si_hub.report.pictures import fit_size


@pytest.mark.parametrize(
    ("side", "expected"), [((32, 16), (128, 64)), ((100, 50), (200, 100)), ((2048, 1024), (512, 256))]
)
def test_small_pictures_are_enlarged_by_whole_numbers_and_large_ones_reduced(
    side: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert fit_size(Image.new("L", side)).size == expected
