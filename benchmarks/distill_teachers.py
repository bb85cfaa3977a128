"""All checkpoints of the miniature in one adapter, against one adapter each of the same total size.

    python -m benchmarks.distill_teachers [--styles ink neon] [--dim 2] [--steps 300] [--out FOLDER]

One table by branch: what is left of the error of the predicted noise, of the distance of pictures, and the judges'
alignment and style score, on held-out prompts. `lycoris` are LyCORIS's extractions of that dim, one of each checkpoint;
`separate` are si-hub's in as many bytes each; `shared` is one file in as many as those together, whose branches are the
styles, each alone at weight 1. With `--steps`, `separate` and `shared` are trained as long, sample by sample, and
`routed` is a shared one whose router has learned to find the branch by the style's name in prompt and negative prompt.
Beside it, the sharing report, and ``mix.png``: two styles mixed from 0 to 1 at equal noise.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
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
from si_hub.distill import distill
from si_hub.format.reader import read

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
SHOWN = 4
PEER = "lycoris"
HEADINGS = ("style", "adapter", "noise error", "pictures", "alignment", "style score", "bytes", "seconds")


def made(styles: Sequence[str], file: Path, size: int, prompts: Path, steps: int, **more: Any) -> tuple[int, float]:
    """An adapter of one or several styles in ``file``, fp16, of at most ``size`` bytes: its bytes, and the seconds."""
    if steps:
        steps *= len(styles)
        more = {"method": "trained", "steps": steps, "every": max(1, steps // 5), **more}
    checkpoints = [HERE / f"checkpoints/{style}.safetensors" for style in styles]
    begin = time.perf_counter()
    found = distill(
        HERE / "base", *checkpoints, output=file, size=size, dtype="fp16", prompts=prompts, guidance=3.0, force=True,
        **more,
    )  # fmt: skip
    return found.size, time.perf_counter() - begin


def rows_of(options: argparse.Namespace, yardsticks: Mapping[str, Yardstick]) -> Iterator[Row]:
    """The lines of the table: base and teacher, then what is one each, then what is one for all."""
    total = 0
    for style, yardstick in yardsticks.items():
        yield from (yardstick.known_row(who) for who in ("base", "teacher"))
        peer = yardstick.extracted(PEER, options.dim, options.out / f"{style}-{PEER}.safetensors")
        yield peer
        file = options.out / f"{style}.safetensors"
        size, seconds = made([style], file, peer.size, yardstick.prompts, options.steps)
        yield replace(drawn(yardstick, "separate", file), size=size, seconds=seconds)
        total += peer.size
    prompts = next(iter(yardsticks.values())).prompts
    file = options.out / "shared.safetensors"
    size, seconds = made(tuple(yardsticks), file, total, prompts, options.steps)
    for style, yardstick in yardsticks.items():
        yield replace(drawn(yardstick, "shared", file, {style: 1.0}), size=size, seconds=seconds)
    if options.steps:
        file = options.out / "routed.safetensors"
        size, seconds = made(tuple(yardsticks), file, total, prompts, options.steps, router="learned")
        for yardstick in yardsticks.values():
            yield replace(drawn(yardstick, "routed", file), size=size, seconds=seconds)


def drawn(yardstick: Yardstick, method: str, file: Path, styles: Mapping[str, float] | None = None) -> Row:
    """The line of an adapter; a router that is to choose is told the style in every prompt."""
    pipe = load(HERE)
    pipe.load_styleinject_weights(file)
    if styles:
        pipe.set_styles(styles)
    word = yardstick.asked.style if method == "routed" else None
    return yardstick.row(1, method, yardstick.outputs(pipe, word))


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


def sharing_of(file: Path) -> Any:
    """The sharing report, which the adapter keeps."""
    fidelity: Any = read(file).about["fidelity"]
    return fidelity["sharing"]


def cells(row: Row) -> list[str]:
    sizes = [f"{row.size:,}", f"{row.seconds:.0f}"] if row.size else ["", ""]
    numbers = [f"{row.noise:.4f}", f"{row.distance:.4f}", f"{row.alignment:.3f}", f"{row.style_score:.3f}"]
    return [row.style, row.method, *numbers, *sizes]


def means(rows: list[Row]) -> Iterator[list[str]]:
    """The mean over all styles of each way."""
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        values = [sum(getattr(row, name) for row in own) / len(own) for name in _MEANS]
        size = sum(row.size for row in own) if method in (PEER, "separate") else own[0].size
        yield ["mean", method, *(f"{value:.4f}" for value in values), f"{size:,}" if size else "", ""]


_MEANS = ("noise", "distance", "alignment", "style_score")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--styles", nargs="+", choices=TAUGHT, default=TAUGHT, help="two or more")
    parser.add_argument("--dim", type=int, default=2, help="of LyCORIS's extractions, whose bytes all have")
    parser.add_argument("--steps", type=int, default=0, help="training steps for each style  [default: none]")
    parser.add_argument("--count", type=int, default=50, help="held-out prompts")
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
    print("", json.dumps(sharing_of(options.out / "shared.safetensors")), sep="\n")
    mixture(options, next(iter(yardsticks.values())).asked.prompts)
    (options.out / "rows.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
