"""How long `si-hub convert` takes against copying and hashing the same file, and what `--help` and `inspect` cost.

    python benchmarks/convert.py [--rank 128] [--runs 5] [--json]

Conversion runs as a whole process, start of the interpreter included, in turn with the yardstick: `cp`, `sync`,
and two SHA-256 passes of the file in one process. Every figure is a median over the runs, peak memory a maximum.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from si_hub import architectures

SI_HUB = [sys.executable, "-m", "si_hub.cli"]


def write_sdxl_lora(file: Path, rank: int) -> int:
    """A kohya-named fp16 LoRA for every attention and feed-forward projection of SDXL; returns its size in bytes."""
    shapes: dict[str, tuple[int, ...]] = {}
    prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
    for component, table in architectures.load("sdxl").components.items():
        for path, module in table.modules.items():
            wanted = "transformer_blocks" in path or ".layers." in path
            if component in prefixes and wanted and module.kind == "linear":
                stem = prefixes[component] + path.replace(".", "_")
                shapes[f"{stem}.lora_down.weight"] = (rank, module.shape[1])
                shapes[f"{stem}.lora_up.weight"] = (module.shape[0], rank)
                shapes[f"{stem}.alpha"] = ()
    header: dict[str, object] = {"__metadata__": {"ss_network_dim": str(rank)}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    random = np.random.default_rng(0)
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            bits = random.integers(0, 1 << 16, size=shape, dtype=np.uint16)
            out.write((bits & 0xBFFF).astype("<u2").tobytes() if shape else struct.pack("<e", rank / 2))
    return file.stat().st_size


def write_sparse_checkpoint(file: Path, size: int) -> None:
    """A checkpoint of ``size`` bytes with SDXL's tensor names; its data is a hole in the file."""
    names = [f"model.diffusion_model.{path}.weight" for path in architectures.load("sdxl").components["unet"].modules]
    row = size // len(names) // 2
    header = {
        name: {"dtype": "F16", "shape": [row], "data_offsets": [2 * row * index, 2 * row * (index + 1)]}
        for index, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(file, 8 + len(text) + 2 * row * len(names))


@dataclass(frozen=True)
class Cost:
    """Seconds of wall clock and CPU, and peak resident megabytes, of one finished process."""

    wall: float
    cpu: float
    peak: float


def cost_of(command: list[str]) -> Cost:
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def yardstick(source: Path, target: Path) -> float:
    """Seconds for `cp`, `sync` of the copy, and two SHA-256 passes over the source."""
    begin = time.perf_counter()
    subprocess.run(["cp", str(source), str(target)], check=True)
    subprocess.run(["sync", str(target)], check=True)
    for _ in range(2):
        digest = hashlib.sha256()
        with source.open("rb") as file:
            while piece := file.read(1 << 18):
                digest.update(piece)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        figures = measure(Path(folder), options.rank, options.runs)
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:<46}{value:10.2f}")


def measure(folder: Path, rank: int, runs: int) -> dict[str, float]:
    source, copy, output = folder / "lora.safetensors", folder / "copy", folder / "out.safetensors"
    size = write_sdxl_lora(source, rank)
    os.sync()
    convert = [*SI_HUB, "convert", str(source), "--base", "sdxl", "-o", str(output), "--force"]
    ours: list[Cost] = []
    theirs: list[float] = []
    for _ in range(runs + 1):
        theirs.append(yardstick(source, copy))
        ours.append(cost_of(convert))
    ours, theirs = ours[1:], theirs[1:]
    checkpoint = folder / "checkpoint.safetensors"
    write_sparse_checkpoint(checkpoint, 7_000_000_000)
    light = {
        "si-hub --help": [*SI_HUB, "--help"],
        "si-hub inspect, the LoRA": [*SI_HUB, "inspect", str(source)],
        "si-hub inspect, the converted adapter": [*SI_HUB, "inspect", str(output)],
        "si-hub inspect, a 7 GB checkpoint": [*SI_HUB, "inspect", str(checkpoint)],
    }
    return {
        "source, MB": size / 1e6,
        "cp + sync + 2 x SHA-256, s": statistics.median(theirs),
        "si-hub convert, s": statistics.median(cost.wall for cost in ours),
        "ratio, median of pairs": statistics.median(a.wall / b for a, b in zip(ours, theirs, strict=True)),
        "si-hub convert, peak resident MB": max(cost.peak for cost in ours),
        **{
            f"{name}, CPU s": statistics.median(cost_of(command).cpu for _ in range(runs))
            for name, command in light.items()
        },
    }


if __name__ == "__main__":
    main()
