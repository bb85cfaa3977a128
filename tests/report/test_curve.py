"""The curve in a terminal."""

from __future__ import annotations

import re

from si_hub.report.curve import curve_text
from si_hub.report.distillation import CurvePoint


def test_the_curve_says_every_size_once_the_smallest_first_with_bars_as_long_as_the_error() -> None:
    lines = curve_text(
        [CurvePoint(40_000, 0.1, 0.5), CurvePoint(20_000, 1.5), CurvePoint(10, 0.0)], 20_000
    ).splitlines()
    assert lines[0].split() == ["size", "predicted", "measured", "error", "left"]
    assert [line.split()[0] for line in lines[1:]] == ["10", "20.0", "40.0"]
    assert [len(re.findall("[█▏▎▍▌▋▊▉]", line)) for line in lines[1:]] == [1, 40, 20]
    assert [line.endswith("<- chosen") for line in lines[1:]] == [False, True, False]
    assert "measured" not in curve_text([CurvePoint(10, 0.5)])
