"""Figures hold their pictures: whole pixels of small ones, in their places; and the gallery draws and skips."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from examples.figures import GAP, LABEL, NAMES, SIDE, Row, draw_figure, fit
from tests.miniature import BASE, KOHYA_LORA
from tests.places import ROOT


def gallery(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "examples" / "gallery.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_a_figure_has_every_picture_in_its_place_by_whole_pixels() -> None:
    random = np.random.default_rng(3)
    pictures = [Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(4)]
    sheet = draw_figure(
        [Row("a\nb", [("one", pictures[0]), ("two", pictures[1])]), Row("c", [("three", pictures[2])])], "x"
    )
    times = SIDE // 32
    edge = (SIDE - 32 * times) // 2
    for row, column, picture in ((0, 0, pictures[0]), (0, 1, pictures[1]), (1, 0, pictures[2])):
        left, top = NAMES + column * (SIDE + GAP) + edge, row * (LABEL + SIDE + GAP) + LABEL + edge
        shown = np.array(sheet.crop((left, top, left + 32 * times, top + 32 * times)))
        assert (shown == np.array(picture).repeat(times, axis=0).repeat(times, axis=1)).all()
    assert fit(Image.new("RGB", (1024, 512))).size == (SIDE, SIDE)


def test_the_gallery_says_what_it_looked_for_where_no_model_is_there(tmp_path: Path) -> None:
    done = gallery(tmp_path, KOHYA_LORA)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("skipped: the local cache has none of stabilityai/stable-diffusion-xl-base-1.0")
    assert [path.name for path in tmp_path.iterdir()] == []


def test_the_gallery_draws_a_base_that_it_is_given_and_ends_with_one_line_on_what_is_none(tmp_path: Path) -> None:
    done = gallery(tmp_path, KOHYA_LORA, "--base", BASE, "--steps", "2", "--count", "1", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(Path("gallery") / "compare.png")]
    with Image.open(tmp_path / "gallery" / "compare.png") as figure:
        assert figure.width == NAMES + 2 * (320 + GAP)
    wrong = gallery(tmp_path, KOHYA_LORA, "--base", "nowhere")
    assert wrong.returncode == 1
    assert wrong.stderr == "gallery.py: nowhere: no such folder\n"
