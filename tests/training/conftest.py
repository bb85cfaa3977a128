"""Pictures of the miniature's own renderer, with captions."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from examples.miniature.render import render
from examples.miniature.scenes import scenes


def write_pictures(folder: Path, style: str, count: int, seed: int = 3) -> Path:
    """``count`` pictures of a style, each with its prompt beside it."""
    folder.mkdir(parents=True)
    for number, scene in enumerate(islice(scenes(seed), count)):
        render(scene, style, seed=seed + number).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(scene.prompt(), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def ink(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures") / "ink", "ink", 8)


@pytest.fixture(scope="session")
def neon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures") / "neon", "neon", 4)
