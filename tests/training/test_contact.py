"""A contact sheet: every drawing where its step and its prompt say, as large as can be seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from si_hub.training.contact import write_contact_sheet
from si_hub.training.drawings import Drawings


def drawn(folder: Path, colours: dict[str, list[tuple[int, int, int]]], side: int) -> Drawings:
    """Drawings of one colour each, by title and prompt."""
    for title, row in colours.items():
        for place, colour in enumerate(row):
            Image.new("RGB", (side, side), colour).save(folder / f"drawn {title} {place}.png")
    nobody: Any = None
    return Drawings(nobody, folder, [("a red circle", None), ("a \x1b[31m ring", "ink")], side, 0)


@pytest.mark.parametrize("side", [32, 512])
def test_a_row_is_a_moment_and_a_column_a_prompt(side: int, tmp_path: Path) -> None:
    colours = {
        "base": [(250, 0, 0), (0, 250, 0)],
        "step 2": [(0, 0, 250), (250, 250, 0)],
        "step 10": [(250, 0, 250), (0, 250, 250)],
    }
    file = tmp_path / "new" / "drawn.png"
    write_contact_sheet(drawn(tmp_path, colours, side), 10, file)
    pixels = np.asarray(Image.open(file))
    wanted = [colour for row in colours.values() for colour in row]
    places = [np.argwhere((pixels == colour).all(2)) for colour in wanted]
    assert [len(found) >= 190 * 190 for found in places] == [True] * 6
    lefts, tops = [found.min(0)[1] for found in places], [found.min(0)[0] for found in places]
    assert lefts == [lefts[0], lefts[1]] * 3
    assert lefts[0] < lefts[1]
    assert tops == [tops[0]] * 2 + [tops[2]] * 2 + [tops[4]] * 2
    assert tops[0] < tops[2] < tops[4]
