"""What `si-hub train` learns on the miniature from 16 pictures, measured on 64 others: by layers and learning rate.

python -m benchmarks.training [--style ink] [--steps 200] [--json]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from itertools import islice
from pathlib import Path

from examples.miniature.render import render
from examples.miniature.scenes import scenes
from si_hub.training.command import train

BASE = Path(__file__).resolve().parents[1] / "examples" / "miniature" / "base"
#: Layers and learning rate.
SETTINGS = (("attention", 0.1), ("linear", 0.1), ("all", 0.1), ("linear", 0.05), ("linear", 0.02))
SEEN, UNSEEN = (16, 777), (64, 4242)


def write_pictures(folder: Path, style: str, count: int, seed: int) -> Path:
    """Pictures of a style with their prompts beside them."""
    folder.mkdir()
    for number, scene in enumerate(islice(scenes(seed), count)):
        render(scene, style, seed=seed + number).save(folder / f"{number:03}.png")
        (folder / f"{number:03}.txt").write_text(scene.prompt(), encoding="utf-8")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--style", default="ink")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        seen = write_pictures(folder / "seen", options.style, *SEEN)
        unseen = write_pictures(folder / "unseen", options.style, *UNSEEN)
        for layers, rate in SETTINGS:
            start = time.perf_counter()
            found = train(
                BASE, seen, folder / "out.safetensors", validation=unseen, layers=layers, rate=rate,
                steps=options.steps, force=True,
            )  # fmt: skip
            row = {
                "layers": layers, "rate": rate, "error": round(found.error, 4), "kB": round(found.size / 1e3),
                "seconds": round(time.perf_counter() - start, 1),
            }  # fmt: skip
            print(json.dumps(row) if options.json else "   ".join(f"{name} {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
