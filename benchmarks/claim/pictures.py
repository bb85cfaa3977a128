"""A grid of pictures for a task: what is wanted, what the base draws, what a LoRA and ours draw, from equal noise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from benchmarks.claim.runs import PICTURED, draw, ground, trained
from benchmarks.claim.study import Found, best_lora, reported
from benchmarks.claim.tasks import TASKS
from examples.miniature.drawing import unseen_scenes
from examples.miniature.report import render_scenes

SHOWN, ENLARGED, BESIDE = 8, 3, 190


def draw_grid(task_name: str, found: Mapping[str, Found], runs: Path, file: Path) -> None:
    """Writes the grid of one task, with the adapters of one reported seed at their chosen steps, from finished runs."""
    task, here = TASKS[task_name], ground()
    wanted = unseen_scenes(SHOWN)
    words = [task.styles[k % len(task.styles)] for k in range(SHOWN)]
    prompts = [scene.prompt(word if task.told else None) for scene, word in zip(wanted, words, strict=True)]
    rows = [
        ("the renderer's", torch.cat([render_scenes([s], w) for s, w in zip(wanted, words, strict=True)])),
        ("base", draw(here, here.pipe.unet, prompts)),
    ]
    for name in (best_lora(found), "fitted"):
        one = found[name]
        unet = trained(reported(task_name, name, one.rate, one.step, PICTURED), runs)
        rows.append((name, draw(here, unet, prompts)))
    side = 32 * ENLARGED
    sheet = Image.new("RGB", (BESIDE + SHOWN * (side + 6), len(rows) * (side + 6)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for row, (title, pictures) in enumerate(rows):
        top = row * (side + 6)
        pen.text((6, top + side // 2 - 8), title, fill="black", font=font)
        bytes_ = ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        for column, picture in enumerate(bytes_):
            large = Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(large, (BESIDE + column * (side + 6), top))
    sheet.save(file, optimize=True)
