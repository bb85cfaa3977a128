"""Folders of the miniature's own pictures with their captions."""

from __future__ import annotations

from itertools import islice
from pathlib import Path


def write_pictures(folder: Path, style: str = "ink", count: int = 4, seed: int = 500) -> Path:
    """Rendered scenes of a style as ``00.png`` and ``00.txt`` …; other seeds are other scenes."""
    from examples.miniature.render import render
    from examples.miniature.scenes import scenes

    folder.mkdir(parents=True)
    for place, scene in enumerate(islice(scenes(seed), count)):
        render(scene, style, seed=seed + place).save(folder / f"{place:02d}.png")
        (folder / f"{place:02d}.txt").write_text(scene.prompt(), encoding="utf-8")
    return folder
