"""README's picture: five tuned checkpoints, the same five styles out of one adapter, and a slider between two of them.

    python -m examples.front --out docs/styles.png

The adapter, ``examples/styles.safetensors``, is shipped; this made it, in the repository's root:

    si-hub distill examples/miniature/base examples/miniature/checkpoints/{ink,neon,mosaic,pastel,clay}.safetensors \\
        --size 560kB --dtype fp16 --guidance 3 --prompts examples/miniature/prompts.txt --set trajectories=16 \\
        --set states=4 --set sampling_steps=10 --set held_out=4 -o examples/styles.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import si_hub
from examples.figures import Row, draw_figure
from examples.miniature.checkpoints import BASE, unfold
from examples.miniature.drawing import draw_prompts
from examples.miniature.progress import hush

HERE = Path(__file__).resolve().parent
ADAPTER = HERE / "styles.safetensors"
CHECKPOINTS = HERE / "miniature" / "checkpoints"
STYLES = ("ink", "neon", "mosaic", "pastel", "clay")
PROMPT = "a large red circle at the left, on sand"
SEED = 0
#: Places of the slider.
SLIDER = (0.0, 0.25, 0.5, 0.75, 1.0)


def draw(pipe: Any) -> Image.Image:
    """The prompt from the seed, 32×32."""
    [picture] = draw_prompts(pipe, [PROMPT], seed=SEED)
    shown = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0)
    return Image.fromarray(np.asarray(shown))


def draw_rows() -> list[Row]:
    """Checkpoints, the adapter's branches, and two of them mixed."""
    from diffusers import StableDiffusionPipeline

    files = [CHECKPOINTS / f"{style}.safetensors" for style in STYLES]
    tuned = [(style, draw(unfold(file))) for style, file in zip(STYLES, files, strict=True)]
    si_hub.enable()
    pipe: Any = StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)
    pipe.load_styleinject_weights(ADAPTER)
    chosen, mixed = [], []
    for style in STYLES:
        pipe.set_styles({style: 1.0})
        chosen.append((style, draw(pipe)))
    for place in SLIDER:
        pipe.set_styles({"ink": 1 - place, "neon": place})
        mixed.append((f"{1 - place:.0%} / {place:.0%}", draw(pipe)))
    whole, small = sum(file.stat().st_size for file in files), ADAPTER.stat().st_size
    return [
        Row(f"five checkpoints\n{whole / 1e6:.1f} MB", tuned),
        Row(f"one adapter\n{small / 1e6:.2f} MB, {whole / small:.0f} times less", chosen),
        Row("its slider\nink / neon", mixed),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("styles.png"), help="file to write")
    arguments = parser.parse_args()
    hush()
    torch.set_num_threads(1)
    caption = f'"{PROMPT}", equal noise everywhere; models of 32 x 32 pixels, trained for this repository'
    draw_figure(draw_rows(), caption).save(arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
