"""Pictures from pipelines, in batches, each from a seed of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import torch

from .render import SIDE
from .scenes import Scene, scenes
from .text import TOKENS

STEPS = 20
GUIDANCE = 3.0
BATCH = 50
TEST_SEED = 5_000


def unseen_scenes(count: int = 200) -> list[Scene]:
    """Scenes that no training set contains, always the same."""
    return list(islice(scenes(TEST_SEED, held_out=True), count))


# What a pipeline must be told beyond Stable Diffusion's own defaults, for a batch of so many prompts.
OPTIONS: dict[str, Callable[[int], dict[str, Any]]] = {
    "FluxPipeline": lambda count: {
        "height": SIDE,
        "width": SIDE,
        "max_sequence_length": TOKENS,
        "true_cfg_scale": GUIDANCE,
        "negative_prompt": [""] * count,
    },
}


def draw_prompts(
    pipe: Any, prompts: Sequence[str], *, seed: int = 0, negative: str | None = None, **options: Any
) -> torch.Tensor:
    """Pictures ``[prompts, 3, 32, 32]`` in -1 … 1, the k-th from noise of ``seed + k`` whatever the batch.

    Args:
        pipe: a diffusers pipeline.
        prompts: what to draw.
        seed: of the first picture's noise.
        negative: prompt of all of them, instead of the pipeline's own empty one.
        options: handed to the pipeline; `STEPS` steps and guidance `GUIDANCE` unless said otherwise.
    """
    pipe.set_progress_bar_config(disable=True)
    drawn = []
    for start in range(0, len(prompts), BATCH):
        batch = list(prompts[start : start + BATCH])
        generators = [torch.Generator().manual_seed(seed + start + k) for k in range(len(batch))]
        own = OPTIONS[name](len(batch)) if (name := type(pipe).__name__) in OPTIONS else {}
        calls = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, **own, **options}
        if negative is not None:
            calls["negative_prompt"] = [negative] * len(batch)
        drawn.append(pipe(batch, generator=generators, output_type="pt", **calls).images.float().cpu())
    return torch.cat(drawn) * 2.0 - 1.0
