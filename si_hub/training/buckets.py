"""Sizes that pictures are trained at: of about one area, each near its picture's own shape."""

from __future__ import annotations

import math

#: How much longer one side may be than the other.
LONGEST = 2.5


def bucket_size(width: int, height: int, resolution: int, step: int) -> tuple[int, int]:
    """Height and width that a picture is trained at: multiples of ``step``, of ``resolution``² pixels or a little less.

    Args:
        width, height: of the picture.
        resolution: side of a square picture.
        step: what sides are multiples of.
    """
    ratio = min(max(width / height, 1 / LONGEST), LONGEST)
    # Square pictures stay square.
    area = max(step, resolution // step * step) ** 2
    sizes = [(area // wide // step * step, wide) for wide in range(step, area // step + 1, step)]
    return min(
        (size for size in sizes if size[0]),
        key=lambda size: (abs(math.log(size[1] / size[0] / ratio)), -size[0] * size[1]),
    )
