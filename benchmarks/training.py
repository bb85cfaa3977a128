"""What `si-hub train` costs and learns on the miniature, beside PEFT's LoRA and DoRA of equal size by the same loop.

python -m benchmarks.training [--style ink] [--steps 200] [--timed 60] [--json]

Steps of all methods are timed in turn, in one process; memory is that of the tensors which the forward pass keeps for
the backward pass. Then each is trained on 16 pictures, and measured on 64 others.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch

import si_hub
from examples.miniature.render import render
from examples.miniature.scenes import scenes
from si_hub.training.accelerating import accelerator_of
from si_hub.training.loop import _Run
from si_hub.training.order import read_order
from si_hub.training.session import Session
from si_hub.training.task import PictureTask
from si_hub.work.processes import processes

MINIATURE = Path(__file__).resolve().parents[1] / "examples" / "miniature"
#: What is said to `si_hub.train`: each with ranks dealt out, and with one everywhere.
METHODS: dict[str, dict[str, Any]] = {
    "styleinject": {}, "lora, ranks fitted": {"method": "lora", "ranks": "fitted"},
    "styleinject, ranks even": {"ranks": "even"}, "lora": {"method": "lora"}, "dora": {"method": "dora"},
}  # fmt: skip
SEEN, UNSEEN = (16, 777), (64, 4242)


def write_pictures(folder: Path, style: str, count: int, seed: int) -> Path:
    """Pictures of a style with their prompts beside them."""
    folder.mkdir()
    for number, scene in enumerate(islice(scenes(seed), count)):
        render(scene, style, seed=seed + number).save(folder / f"{number:03}.png")
        (folder / f"{number:03}.txt").write_text(scene.prompt(), encoding="utf-8")
    return folder


def prepare(base: Path, pictures: Path, told: dict[str, Any], output: Path) -> tuple[Session, _Run]:
    """A training that is about to begin."""
    order = read_order(
        base, pictures, output, styles=(), caption=None, validation=None, prompts=None, report=(), work=None,
        force=True, progress=None, about={}, dtype="fp32", settings=told,
    )  # fmt: skip
    order.work.open(order.plan())
    session = Session(order, processes())
    accelerator = accelerator_of("no", session.crew.device)
    task = PictureTask(
        session.pupil, session.encoded, session.lessons, [], session.lessons, session.objective, order.settings,
        accelerator, session.crew.device,
    )  # fmt: skip
    return session, _Run(task, order.settings.recipe(session.rate), accelerator, None)


def kept_bytes(run: _Run) -> int:
    """Bytes that a step's forward pass keeps for its backward pass, each tensor once; the model's own do not count."""
    task: Any = run.task
    own = {value.untyped_storage().data_ptr() for value in task.encoded.pipeline.unet.parameters()}
    found: dict[int, int] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        loss = task.loss(task.draw(0, run.recipe.batch))
        count = sum(size for place, size in found.items() if place not in own)
    del loss
    return count


def timed(base: Path, pictures: Path, steps: int, place: Path) -> list[dict[str, Any]]:
    """Time and memory of a step of every method, taken in turn."""
    ready = {
        method: prepare(base, pictures, told, place / f"{number}.safetensors")
        for number, (method, told) in enumerate(METHODS.items())
    }
    took: dict[str, list[float]] = {method: [] for method in METHODS}
    for _ in range(steps):
        for method, (_, run) in ready.items():
            start = time.perf_counter()
            run.advance()
            took[method].append(time.perf_counter() - start)
    # Those of the first steps, in which caches fill, are not counted.
    medians = {method: statistics.median(values[steps // 10 :]) for method, values in took.items()}
    kept = {method: kept_bytes(run) for method, (_, run) in ready.items()}
    return [
        {
            "method": method, "numbers": session.pupil.numbers, "ms a step": round(1000 * medians[method], 1),
            "of LoRA's": round(medians[method] / medians["lora"], 3), "MB kept": round(kept[method] / 1e6, 2),
            "of LoRA's ": round(kept[method] / kept["lora"], 3),
        }
        for method, (session, _) in ready.items()
    ]  # fmt: skip


def learned(base: Path, style: str, steps: int, place: Path) -> list[dict[str, Any]]:
    """The error on unseen pictures that each method leaves."""
    unseen = write_pictures(place / "unseen", style, *UNSEEN)
    rows = []
    for method, told in METHODS.items():
        start = time.perf_counter()
        found = si_hub.train(
            base, place / "seen", place / "out.safetensors", validation=unseen, steps=steps, measured=64,
            force=True, **told,
        )  # fmt: skip
        rows.append({
            "method": method, "steps": steps, "error": round(found.error, 4), "kept step": found.kept,
            "kB": round(found.size / 1e3), "seconds": round(time.perf_counter() - start, 1),
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--style", default="ink")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--timed", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, nullcontext(Path(folder)) as place:
        pictures = write_pictures(place / "seen", options.style, *SEEN)
        base = MINIATURE / "base"
        for row in (*timed(base, pictures, options.timed, place), *learned(base, options.style, options.steps, place)):
            text = "   ".join(f"{name.strip()} {value}" for name, value in row.items())
            print(json.dumps(row) if options.json else text)


if __name__ == "__main__":
    main()
