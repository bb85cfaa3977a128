"""Five style adapters of the miniature as one of a fifth of their bytes: each layer's best pairs, or the distiller's.

    python -m benchmarks.stacking [--share 5] [--json] [--picture stack.png]

The adapters are distilled from the miniature's five style checkpoints (svd, rank 8), each weighs 0.2 in the sum. The
error is that of the predicted noise on 32 of the miniature's prompts at five times, in units of what the sum changes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

import si_hub
from examples.miniature.demo import grid
from examples.miniature.drawing import draw_prompts, unseen_scenes
from si_hub.distill import distill

MINIATURE = Path(__file__).resolve().parents[1] / "examples" / "miniature"
BASE, PROMPTS = MINIATURE / "base", MINIATURE / "prompts.txt"
STYLES = ("ink", "neon", "mosaic", "pastel", "clay")
SHOWN = 5
TIMES = (900, 700, 500, 300, 100)


def predict(pipe: Any, file: Path | None) -> torch.Tensor:
    """The predicted noise, ``[times, prompts, ...]``."""
    if file is not None:
        pipe.load_styleinject_weights(file)
    prompts = PROMPTS.read_text(encoding="utf-8").splitlines()[-32:]
    text = pipe.encode_prompt(prompts, "cpu", 1, False)[0]
    latents = torch.randn(len(prompts), 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = torch.stack([pipe.unet(latents, time, text).sample for time in TIMES])
    if file is not None:
        pipe.unload_styleinject_weights()
    return found


def draw(pipe: Any, file: Path | None) -> torch.Tensor:
    """Pictures of prompts that nothing was trained on."""
    if file is not None:
        pipe.load_styleinject_weights(file)
    found = draw_prompts(pipe, [scene.prompt() for scene in unseen_scenes(SHOWN)])
    if file is not None:
        pipe.unload_styleinject_weights()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=int, default=5, help="of the adapters' bytes together")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--picture", type=Path, help="draw what base, sum and both small adapters draw")
    options = parser.parse_args()
    si_hub.enable()
    pipe: Any = StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)
    with tempfile.TemporaryDirectory(dir=".") as place:
        folder = Path(place)
        files = []
        for style in STYLES:
            output = folder / f"{style}.safetensors"
            distill(
                BASE,
                MINIATURE / "checkpoints" / f"{style}.safetensors",
                output=output,
                method="svd",
                rank=8,
                dtype="fp32",
            )
            files.append(output)
        terms = dict.fromkeys(files, 0.2)
        # A little more, so that the one rank for all layers that comes nearest to it is not just above it.
        size = 1024 + sum(file.stat().st_size for file in files) // options.share
        whole = si_hub.merge(terms, folder / "sum.safetensors", base=BASE)
        base, wanted = predict(pipe, None), predict(pipe, whole.path)
        drawn = {"base": draw(pipe, None), "sum of five": draw(pipe, whole.path)}
        for method in ("svd", "calibrated"):
            path = folder / f"{method}.safetensors"
            si_hub.merge(terms, path, base=BASE, size=size, method=method, prompts=PROMPTS)
            left = (predict(pipe, path) - wanted).square().mean() / (base - wanted).square().mean()
            drawn[f"a fifth, {method}"] = draw(pipe, path)
            row = {
                "method": method, "bytes": path.stat().st_size, "of": sum(file.stat().st_size for file in files),
                "error": float(f"{float(left):.3g}"),
            }  # fmt: skip
            print(json.dumps(row) if options.json else "   ".join(f"{name} {value}" for name, value in row.items()))
        if options.picture:
            grid(drawn, [scene.prompt() for scene in unseen_scenes(SHOWN)]).save(options.picture)


if __name__ == "__main__":
    main()
