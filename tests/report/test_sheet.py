"""The sheet of a report: as high as what is in it, whatever its texts say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from si_hub.report.distillation import Distillation, ImageRow
from tests.report.world import HOSTILE, full_report, size_of


def test_a_sheet_is_as_high_as_what_it_has_data_for(tmp_path: Path) -> None:
    wide, empty = size_of(tmp_path / "a.png", Distillation("nothing"))
    same, full = size_of(tmp_path / "b.png", full_report())
    assert wide == same
    assert empty < full


def test_no_text_is_read_as_a_formula(tmp_path: Path) -> None:
    assert size_of(tmp_path / "sheet.png", full_report(HOSTILE))[0] > 1000


def test_every_prompt_has_a_row_with_its_pictures_in_it(tmp_path: Path) -> None:
    """Two pictures of colours that nothing else on the sheet has: each is there, one below the other."""
    colours = (201, 10, 99), (12, 203, 98)
    rows = [ImageRow("a ring", k, {"teacher": Image.new("RGB", (32, 32), rgb)}) for k, rgb in enumerate(colours)]
    found = Distillation("pictures", rows=rows)
    size_of(tmp_path / "sheet.png", found)
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    first, second = (np.argwhere((pixels == rgb).all(-1))[:, 0] for rgb in colours)
    assert min(len(first), len(second)) > 5000
    assert first.max() < second.min()
