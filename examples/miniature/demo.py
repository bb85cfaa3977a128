"""The whole way in one run, on real models: a kohya LoRA, ``si-hub convert``, one line to load it, and the judges.

``python -m examples.miniature.demo --out demo`` writes ``demo/grid.png``: a row for each prompt; the base, the LoRA as
diffusers loads it, the converted file as si-hub loads it, and how far these two are apart. At last every file of the
peers, loaded in one line.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

import si_hub

from .checkpoints import HERE
from .drawing import draw_prompts, unseen_scenes
from .judges import judge, load_judges
from .peers import LOADERS, STYLE
from .progress import hush
from .report import load

PEER = "kohya_lora"
ZOOM, GAP, HEAD, LINE = 7, 10, 36, 30
TITLE, PROMPT = 20, 18
AMPLIFIED = 100
SHOWN = 4
COMPARED = 2


def grid(columns: Mapping[str, torch.Tensor], prompts: Sequence[str], side: int = 32) -> Image.Image:
    """Columns of pictures ``[rows, 3, side, side]`` in -1 … 1 under their titles, each row under its prompt."""
    cell = side * ZOOM + GAP
    sheet = Image.new("RGB", (cell * len(columns) + GAP, HEAD + (cell + LINE) * len(prompts)), "white")
    pen, title_font, font = ImageDraw.Draw(sheet), ImageFont.load_default(TITLE), ImageFont.load_default(PROMPT)
    for column, (title, pictures) in enumerate(columns.items()):
        left = GAP + column * cell
        pen.text((left, 8), title, "black", title_font)
        for row, picture in enumerate(pictures[: len(prompts)]):
            shown = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
            enlarged = Image.fromarray(shown).resize((side * ZOOM,) * 2, Image.Resampling.NEAREST)
            sheet.paste(enlarged, (left, HEAD + row * (cell + LINE) + LINE))
    for row, prompt in enumerate(prompts):
        pen.text((GAP, HEAD + row * (cell + LINE) + 2), prompt, "dimgray", font)
    return sheet


def compare_peers(prompts: Sequence[str]) -> Table:
    """Every file of the peers, loaded in one line with nothing named, against what its own library draws with it."""
    table = Table(
        "file", "largest difference of a pixel, of 255", title="any file, in one line, and by its own library"
    )
    for name, load_theirs in LOADERS.items():
        file = HERE / f"peers/{name}.safetensors"
        theirs, ours = load(HERE), load(HERE)
        load_theirs(theirs, file)
        ours.load_styleinject_weights(file)
        apart = (draw_prompts(ours, prompts) - draw_prompts(theirs, prompts)).abs().max() / 2
        table.add_row(file.name, f"{float(apart) * 255:.4f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the results (replaced)")
    parser.add_argument("--count", type=int, default=60, help="held-out prompts that are judged")
    arguments = parser.parse_args()
    out: Path = arguments.out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    hush()
    torch.set_num_threads(1)

    source, converted = HERE / f"peers/{PEER}.safetensors", out / f"{STYLE}.safetensors"
    paths = (os.path.relpath(path) for path in (source, HERE / "base", converted))
    command = [word for pair in zip(("convert", "--base", "-o"), paths, strict=True) for word in pair]
    command = ["si-hub", *command]
    print(f"1. {' '.join(command)}", flush=True)
    subprocess.run([sys.executable, "-m", "si_hub.cli", *command[1:]], check=True)

    print(f'2. pipe.load_styleinject_weights("{converted}")', flush=True)
    scenes = unseen_scenes(arguments.count)
    prompts = [scene.prompt() for scene in scenes]
    pipe = load(HERE)
    drawn = {"base": draw_prompts(pipe, prompts)}
    before = draw_prompts(pipe, prompts[:SHOWN])
    LOADERS[PEER](pipe, source)
    drawn["the LoRA, by diffusers"] = peer = draw_prompts(pipe, prompts)
    pipe.unload_lora_weights()
    si_hub.enable()
    pipe.load_styleinject_weights(converted)
    drawn["converted, by si-hub"] = ours = draw_prompts(pipe, prompts)
    pipe.unload_styleinject_weights()
    again = draw_prompts(pipe, prompts[:SHOWN])

    apart = (ours - peer).abs()
    columns = {**drawn, f"difference x{AMPLIFIED}": apart * AMPLIFIED - 1.0}
    grid(columns, prompts[:SHOWN]).save(out / "grid.png")
    judges = load_judges(HERE / "judges.safetensors")
    table = Table("", "alignment", f"style score ({STYLE})", title=f"{len(prompts)} held-out prompts")
    for name, pictures in drawn.items():
        verdict = judge(judges, pictures, scenes)
        table.add_row(name, f"{verdict.alignment:.3f}", f"{verdict.styles[STYLE]:.3f}")
    Console().print(table)
    print(f"largest difference of any pixel, LoRA and converted file  {apart.max() / 2:.1e}  (of 1)")
    left = (again - before).abs().max() / 2
    print(f"the same for the base, before and after unloading         {left:.1e}")
    print("3. pipe.load_styleinject_weights(FILE), as it is", flush=True)
    Console().print(compare_peers(prompts[:COMPARED]))
    print(f"picture: {out / 'grid.png'}")


if __name__ == "__main__":
    main()
