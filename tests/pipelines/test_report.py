"""What a load says that it did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from si_hub.pipelines import LoadReport

Make = Callable[..., Any]


def test_the_report_prints_counts_and_the_first_keys(sd: Make, lora: Make, adapter: Make) -> None:
    pipe = sd()
    part = lora(pipe.unet)
    some = next(iter(part.layers.values()))
    part.layers |= {f"nowhere.{number}": some for number in range(7)}
    report = pipe.load_styleinject_weights(adapter(unet=part), strict=False)
    assert isinstance(report, LoadReport)
    assert bool(report) is True
    lines = str(report).splitlines()
    assert lines[0] == "default_0: 24 layers of an Adapter (for sd15)"
    assert lines[1:4] == [
        "  unet: 24 matched, 7 missing, 0 unexpected", "    missing: nowhere.0", "    missing: nowhere.1",
    ]  # fmt: skip
    assert lines[-1] == "    … and 2 more"
