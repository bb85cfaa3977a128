"""Community checkpoints: the base fine-tuned whole, once on each style, and once on all of them.

A checkpoint of one style draws it whatever the prompt says; the one of all styles obeys the prompt's last words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .autoencoder import encode
from .base import Denoising, LatentBatches
from .data import style_pictures
from .scenes import STYLES
from .training import Recipe, train

TAUGHT = STYLES[1:]
ALL = "all_styles"
STEPS, ALL_STEPS = 450, 1200


def recipe_of(name: str) -> Recipe:
    """How one of `TAUGHT`, or `ALL`, is trained."""
    seed = 40 + [*TAUGHT, ALL].index(name)
    return Recipe(f"style-{name}", ALL_STEPS if name == ALL else STEPS, batch=48, rate=8e-4, seed=seed, average=0.99)


def lessons(pipe: Any, name: str, work: Path) -> LatentBatches:
    """The training set of one checkpoint: for `ALL`, every style by its name, and the plain one without any too."""
    if name != ALL:
        told: list[tuple[str, str | None]] = [(name, None)]
    else:
        told = [("plain", None), *((style, style) for style in STYLES)]
    latents: list[torch.Tensor] = []
    prompts: list[str] = []
    for style, word in told:
        pictures = style_pictures(style, work)
        latents.append(encode(pipe.vae, pictures, work))
        prompts += [scene.prompt(word) for scene in pictures.scenes]
    return LatentBatches(torch.cat(latents), {"ids": (pipe.tokenizer, prompts)})


def fine_tune(pipe: Any, name: str, work: Path) -> None:
    """Trains every weight of the pipeline's U-Net and text encoder in place, on one of `TAUGHT` or on `ALL`."""
    recipe = recipe_of(name)
    torch.manual_seed(recipe.seed)
    objective = Denoising(pipe.unet.requires_grad_(True), pipe.text_encoder.requires_grad_(True), pipe.scheduler)
    train(recipe, objective, lessons(pipe, name, work), work)
