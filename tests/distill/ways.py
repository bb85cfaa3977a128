"""Base, checkpoint and settings of every way that a model is opened, held and run while it is distilled.

The slow tests take two of them, or one where a test lasts minutes; ``make test-ways`` takes all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from si_hub.distill.request import WITH_FLAG
from tests.distill.singles import miniature_file
from tests.miniature import MINIATURE, checkpoint
from tests.systems import EVERY_WAY

WAYS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "folder": ("base", "ink", {}),
    "single files": ("base.safetensors", "ink", {"config": str(MINIATURE / "base")}),
    "two text encoders, block by block": ("sdxl", "sdxl_ink", {"memory": "blocks"}),
    "two text encoders, from their files": ("sdxl", "sdxl_ink", {"memory": "files"}),
    "transformer in bf16": ("dit", "dit_ink", {"precision": "bf16", "resolution": 32}),
}

ONE_WAY = tuple(WAYS) if EVERY_WAY else ("transformer in bf16",)
FEW_WAYS = tuple(WAYS) if EVERY_WAY else ("folder", *ONE_WAY)


def pair_of(way: str, folder: Path) -> tuple[Path, Path]:
    """Base and tuned model; a base that is a single file is written into ``folder``."""
    base, tuned, _ = WAYS[way]
    place = miniature_file(folder / base) if base.endswith(".safetensors") else MINIATURE / base
    return place, checkpoint(tuned)


def words_of(way: str) -> list[str]:
    """The settings as the command takes them."""
    return [
        word
        for name, value in WAYS[way][2].items()
        for word in ([f"--{name}", str(value)] if name in (*WITH_FLAG, "config") else ["--set", f"{name}={value}"])
    ]
