"""All checkpoints of the miniature in one adapter, against one adapter each of the same total size.

    python -m benchmarks.distill_teachers [--styles ink neon] [--each 120000] [--steps 300] [--out FOLDER]

One table by branch: what is left of the error of the predicted noise, of the distance of pictures, and the judges'
alignment and style score, on held-out prompts. `shared` is one file whose branches are the styles, each alone at
weight 1; `separate` are adapters of a fraction of its size each. With `--steps` both are trained as long, sample by
sample. Beside it, the sharing report, and ``mix.png``: two styles mixed from 0 to 1 at equal noise.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

import si_hub
from benchmarks.distill_quality import Row, Yardstick, line
from examples.miniature.checkpoints import HERE
from examples.miniature.demo import grid
from examples.miniature.drawing import draw_prompts
from examples.miniature.progress import hush
from examples.miniature.report import load
from examples.miniature.styles import TAUGHT
from si_hub.distill import Distilled, distill

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
SHOWN = 4
HEADINGS = ("style", "adapter", "noise error", "pictures", "alignment", "style score", "bytes", "seconds")


def made(styles: list[str], file: Path, size: int, prompts: Path, options: argparse.Namespace) -> Distilled:
    """An adapter of one or several styles in ``file``, fp16, of at most ``size`` bytes."""
    more: dict[str, Any] = {"method": "calibrated"}
    if options.steps:
        steps = options.steps * len(styles)
        more = {"method": "trained", "steps": steps, "every": max(1, steps // 5)}
    checkpoints = [HERE / f"checkpoints/{style}.safetensors" for style in styles]
    return distill(
        HERE / "base", *checkpoints, output=file, size=size, dtype="fp16", prompts=prompts, guidance=3.0, force=True,
        **more,
    )  # fmt: skip


def rows_of(options: argparse.Namespace, yardsticks: dict[str, Yardstick]) -> Iterator[Row]:
    """The lines of the table: base and teacher, then both ways."""
    styles, total = list(options.styles), options.each * len(options.styles)
    prompts = next(iter(yardsticks.values())).prompts
    for style in styles:
        for who in ("base", "teacher"):
            yield replace(yardsticks[style].known_row(who), style=style)
        file = options.out / f"{style}.safetensors"
        begin = time.perf_counter()
        alone = made([style], file, options.each, prompts, options)
        seconds = time.perf_counter() - begin
        pipe = load(HERE)
        pipe.load_styleinject_weights(file)
        row = yardsticks[style].row(1, "separate", yardsticks[style].outputs(pipe))
        yield replace(row, size=alone.size, seconds=seconds)
    file = options.out / "shared.safetensors"
    begin = time.perf_counter()
    shared = made(styles, file, total, prompts, options)
    seconds = time.perf_counter() - begin
    (options.out / "sharing.json").write_text(json.dumps(shared.fidelity["sharing"], indent=2) + "\n")
    pipe = load(HERE)
    pipe.load_styleinject_weights(file)
    for style in styles:
        pipe.set_styles({style: 1.0})
        row = yardsticks[style].row(1, "shared", yardsticks[style].outputs(pipe))
        yield replace(row, size=shared.size, seconds=seconds)


def mixture(options: argparse.Namespace, prompts: list[str]) -> None:
    """Pictures of the first style going over into the second, at equal noise."""
    pipe = load(HERE)
    pipe.load_styleinject_weights(options.out / "shared.safetensors")
    one, other = options.styles[:2]
    columns = {}
    for share in SHARES:
        pipe.set_styles({one: 1.0 - share, other: share})
        columns[f"{one} {1.0 - share:g}, {other} {share:g}"] = draw_prompts(pipe, prompts[:SHOWN])
    grid(columns, prompts[:SHOWN]).save(options.out / "mix.png")


def cells(row: Row) -> list[str]:
    sizes = [f"{row.size:,}", f"{row.seconds:.0f}"] if row.size else ["", ""]
    numbers = [f"{row.noise:.4f}", f"{row.distance:.4f}", f"{row.alignment:.3f}", f"{row.style_score:.3f}"]
    return [row.style, row.method, *numbers, *sizes]


def means(rows: list[Row]) -> Iterator[list[str]]:
    """The mean over all styles of each way."""
    for method in ("base", "teacher", "separate", "shared"):
        own = [row for row in rows if row.method == method]
        values = [sum(getattr(row, name) for row in own) / len(own) for name in _MEANS]
        size = sum(row.size for row in own) if method == "separate" else own[0].size
        yield ["mean", method, *(f"{value:.4f}" for value in values), f"{size:,}" if size else "", ""]


_MEANS = ("noise", "distance", "alignment", "style_score")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--styles", nargs="+", choices=TAUGHT, default=TAUGHT, help="two or more")
    parser.add_argument("--each", type=int, default=120_000, help="bytes of a separate adapter; the shared one has all")
    parser.add_argument("--steps", type=int, default=0, help="training steps for each style  [default: none]")
    parser.add_argument("--count", type=int, default=100, help="held-out prompts")
    parser.add_argument("--out", type=Path, default=Path("build/distill_teachers"), help="folder for files")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    hush()
    si_hub.enable()
    yardsticks = {style: Yardstick(style, options.count, options.out) for style in options.styles}
    print(line(HEADINGS), line(["---"] * len(HEADINGS)), sep="\n", flush=True)
    rows = []
    for row in rows_of(options, yardsticks):
        rows.append(row)
        print(line(cells(row)), flush=True)
    for cell in means(rows):
        print(line(cell))
    sharing = json.loads((options.out / "sharing.json").read_text())
    print("", json.dumps(sharing), sep="\n")
    mixture(options, next(iter(yardsticks.values())).asked.prompts)
    (options.out / "rows.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
