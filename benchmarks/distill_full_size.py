"""Models of full size through `si-hub distill`: seconds by phase and memory, by method and precision.

    python -m benchmarks.distill_full_size --sizes sd15 sdxl --methods svd calibrated --precisions no bf16

The pair is two single files under the original names, float16, with random weights of the architecture's every shape,
and the same plus a low-rank difference; of Flux, two folders with some of its blocks (`full_size_pairs.FLUX_BLOCKS`).
Each command runs in a process of its own, as people run it, at settings so few (``FEW``) that two cores end: they say
what is held and how long a call takes, and nothing of quality. Memory is the largest resident
size that the system counts. LyCORIS's extraction, which looks at weights alone, is beside `svd` in
`benchmarks.distill_speed`, on pairs of the same shapes; what an accelerator holds is counted by
`benchmarks.distill_memory`.
"""

from __future__ import annotations

import argparse
import json
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

from benchmarks.full_size_pairs import SIZES, write_pair
from si_hub.distill.survey.stages import PHASES
from si_hub.format.reader import read

#: Settings of the commands.
FEW = {"states": 1, "sampling_steps": 2, "pieces": 8, "probes": 1}
#: Of `trained`, besides.
STEPS = {"samples": 1, "walks": 1, "part": 1}


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
        "size": output.stat().st_size, "error": fidelity.get("error"),
        "before_fit": fidelity.get("before_fit"), "ranks": dict(sorted(ranks.items())),
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
    parser = argparse.ArgumentParser(description="Models of full size through si-hub distill.")
    parser.add_argument("--sizes", nargs="+", default=["sd15"], choices=SIZES)
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
