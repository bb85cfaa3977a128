"""Single files at full size through `si-hub distill`: seconds by phase and memory, by method and precision.

    python -m benchmarks.distill_full_size --sizes sd15 sdxl --methods svd calibrated --precisions no bf16

The pair is two single files under the original names, float16, with random weights of the architecture's every shape,
and the same plus a low-rank difference. Each command runs in a process of its own, as people run it, at settings so few
(``FEW``) that two cores end: they say what is held and how long a call takes, and nothing of quality. Memory is
the largest resident size that the system counts, pages of mapped files included. LyCORIS's extraction, which looks at
weights alone, is beside `svd` in `benchmarks.distill_speed`, on pairs of the same shapes; what an accelerator holds is
counted by `benchmarks.distill_memory`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from examples.miniature.checkpoints import vae_key
from si_hub import architectures
from si_hub.architectures.layouts.unet import sgm
from si_hub.distill.running.releases import RELEASES
from si_hub.distill.survey.stages import PHASES
from si_hub.format.reader import read
from si_hub.storage.tensors import Tensor
from si_hub.storage.write import header_bytes
from tests.distill.checkpoints import open_clip, original, prefixed, shapes_of

#: Settings of the commands.
FEW = {"states": 1, "sampling_steps": 2, "pieces": 8, "probes": 1}
#: Of `trained`, besides.
STEPS = {"samples": 1, "walks": 1, "part": 1}
#: Where the text encoders of a size are, as their projects name them.
ENCODERS = {
    "sd15": {"text_encoder": "cond_stage_model.transformer."},
    "sdxl": {
        "text_encoder": "conditioner.embedders.0.transformer.", "text_encoder_2": "conditioner.embedders.1.model.",
    },
}  # fmt: skip
#: Rank of the difference, and its size relative to the weight's.
DIRECTIONS, STRENGTH = 8, 0.1
#: Random numbers that weights are cut from.
POOL = 1 << 22


def shapes_in_file(size: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint under the names of the original project."""
    known = architectures.load(size).components
    held: dict[str, Any] = dict(original(sgm(known["unet"]), dict(shapes_of(known["unet"])), "model.diffusion_model."))
    for component, place in ENCODERS[size].items():
        encoder: dict[str, Any] = dict(shapes_of(known[component]))
        held.update(open_clip(encoder, place) if place.endswith(".model.") else prefixed(encoder, place))
    with torch.device("meta"):
        vae = AutoencoderKL(**RELEASES[size].models["vae"].config)
    for name, value in vae.state_dict().items():
        held[f"first_stage_model.{vae_key(name, 4)}"] = tuple(value.shape)
    return held


def write_pair(folder: Path, size: str) -> tuple[Path, Path]:
    """Base and tuned model, one tensor in memory at a time."""

    class Promised:
        def __init__(self, length: int) -> None:
            self.length = length

    shapes = shapes_in_file(size)
    promised: dict[str, Any] = {
        name: Tensor("F16", shape, (Promised(2 * math.prod(shape)),))  # type: ignore[arg-type]
        for name, shape in shapes.items()
    }
    pool = torch.randn(POOL, generator=torch.Generator().manual_seed(0))
    files = folder / "base.safetensors", folder / "tuned.safetensors"
    with files[0].open("wb") as base, files[1].open("wb") as tuned:
        for stream in (base, tuned):
            stream.write(header_bytes(promised, {}))
        for place, (name, shape) in enumerate(shapes.items()):
            sides = _draw(name, shape, pool.roll(7919 * place))
            for stream, values in zip((base, tuned), sides, strict=True):
                values.contiguous().numpy().tofile(stream)
    return files


def _draw(name: str, shape: tuple[int, ...], pool: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight of both models; a network of them computes numbers of a size that float16 can hold."""
    count = math.prod(shape)
    if len(shape) < 2:
        values = 0.01 * pool[:count] + float(name.endswith(".weight"))
        return values.half(), (values + 0.01 * pool[1 : count + 1]).half()
    rows, columns = shape[0], count // shape[0]
    base = pool.repeat(-(-count // POOL))[:count].reshape(rows, columns) * columns**-0.5
    tuned = base.clone()
    if not name.startswith("first_stage"):
        left, right = pool[: rows * DIRECTIONS].reshape(rows, -1), pool[-columns * DIRECTIONS :].reshape(-1, columns)
        tuned.addmm_(left, right, alpha=STRENGTH * (columns * DIRECTIONS) ** -0.5)
    return base.half().reshape(shape), tuned.half().reshape(shape)


def run(
    pair: tuple[Path, Path], method: str, precision: str, given: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """One command, as people run it: its seconds, whole and by phase, its peak in MB, what its file says of itself."""
    output = folder / f"{method}-{precision}.safetensors"
    words = ["distill", *map(str, pair), "-o", str(output), "--method", method, "--rank", "4", "--dtype", "fp16"]
    if method != "svd":
        walks = {"trajectories": given.trajectories, "held_out": given.trajectories}
        settings = {**FEW, **walks, "cache": folder / "cache", **(STEPS if method == "trained" else {})}
        words += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        words += ["--resolution", str(given.resolution), "--precision", precision]
        words += ["--steps", "2"] if method == "trained" else []
    begin = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "si_hub.cli", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert child.stderr
    said = [(0.0, "si-hub: opening"), *((time.perf_counter() - begin, line.strip()) for line in child.stderr)]
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - begin
    if status:
        raise SystemExit(f"si-hub distill failed: {said[-1][1]}")
    adapter = read(output)
    fidelity: Any = adapter.about["fidelity"]
    ranks = Counter(layer.rank for part in adapter.components.values() for layer in part.layers.values())
    return {
        "method": method, "precision": precision, "seconds": round(seconds), "phases": phases_of(said, seconds),
        "processor": round(usage.ru_utime + usage.ru_stime), "peak_mb": round(usage.ru_maxrss / 1000),
        "size": output.stat().st_size, "error": fidelity.get("error"), "ranks": dict(sorted(ranks.items())),
    }  # fmt: skip


def phases_of(said: list[tuple[float, str]], end: float) -> dict[str, int]:
    """Seconds of each phase that a command has told, from one to the next."""
    found: dict[str, float] = {}
    phase = "opening"
    for (start, line), (until, _) in pairwise([*said, (end, "")]):
        told = line.removeprefix("si-hub: ")
        phase = told if told in PHASES.values() else phase
        found[phase] = found.get(phase, 0.0) + until - start
    return {name: round(seconds) for name, seconds in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Full-size single files through si-hub distill.")
    parser.add_argument("--sizes", nargs="+", default=["sd15"], choices=ENCODERS)
    parser.add_argument("--methods", nargs="+", default=["svd", "calibrated"], choices=["svd", "calibrated", "trained"])
    parser.add_argument("--precisions", nargs="+", default=["no"], choices=["no", "bf16", "fp16"])
    parser.add_argument("--resolution", type=int, default=64, help="side of the pictures that are sampled")
    parser.add_argument("--trajectories", type=int, default=1, help="of the tuned model, and as many to measure on")
    parser.add_argument("--folder", type=Path, help="where models are written (SDXL: 14 GB), removed afterwards")
    options = parser.parse_args()
    for size in options.sizes:
        folder = Path(tempfile.mkdtemp(prefix="distill-full-", dir=options.folder))
        try:
            pair = write_pair(folder, size)
            for method in options.methods:
                for precision in options.precisions if method != "svd" else ["no"]:
                    found = run(pair, method, precision, options, folder)
                    print(size, json.dumps(found), flush=True)
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
