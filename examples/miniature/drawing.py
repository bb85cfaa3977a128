"""Pictures from pipelines, in batches, each from a seed of its own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch

from .scenes import Scene, scenes

STEPS = 20
GUIDANCE = 3.0
BATCH = 50
TEST_SEED = 5_000


def unseen_scenes(count: int = 200) -> list[Scene]:
    """Scenes that no training set contains, always the same."""
    return list(islice(scenes(TEST_SEED, held_out=True), count))


def draw_prompts(pipe: Any, prompts: Sequence[str], *, seed: int = 0, **options: Any) -> torch.Tensor:
    """Pictures ``[prompts, 3, 32, 32]`` in -1 … 1, the k-th from noise of ``seed + k`` whatever the batch.

    Args:
        pipe: a diffusers pipeline.
        prompts: what to draw.
        seed: of the first picture's noise.
        options: handed to the pipeline; `STEPS` steps and guidance `GUIDANCE` unless said otherwise.
    """
    pipe.set_progress_bar_config(disable=True)
    calls = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, **options}
    drawn = []
    for start in range(0, len(prompts), BATCH):
        batch = list(prompts[start : start + BATCH])
        generators = [torch.Generator().manual_seed(seed + start + k) for k in range(len(batch))]
        drawn.append(pipe(batch, generator=generators, output_type="pt", **calls).images.float().cpu())
    return torch.cat(drawn) * 2.0 - 1.0
