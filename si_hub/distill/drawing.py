"""The same noise drawn by tuned models, by their adapter and by the base, for people to compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from si_hub import format as file_format
from si_hub.distill.pair.matching import Pair
from si_hub.distill.request import STEPS, SurveyOptions
from si_hub.distill.running import prompts
from si_hub.distill.running.runner import Runner, dtype_of
from si_hub.pipelines import loading
from si_hub.pipelines.mixin import StyleInjectLoaderMixin
from si_hub.report.distillation import ImageRow

#: Added to a run's seed for the pictures' noise, which nothing was calibrated or trained on.
SEEDS = 90_000
_DEFAULT = SurveyOptions()


def rows(
    pairs: Sequence[Pair],
    adapter: Path,
    count: int,
    *,
    file: Path | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    survey: SurveyOptions = _DEFAULT,
    device: torch.device | str = "cpu",
) -> list[ImageRow]:
    """A row for each of ``count`` held-out prompts: teacher, adapter and base from equal noise.

    Several tuned models have a teacher and an adapter column each, named by its branch, the adapter's with that alone.

    Args:
        pairs: base and tuned models.
        adapter: the StyleInject file; its branches, where it has any, are the tuned models in their order.
        count: of prompts.
        file: of prompts; those of `si_hub.distill.running.prompts` by default.
        seed: of the run.
        options: keywords for every call of the pipeline.
        survey: how the adapter was made: prompts of the built-in list that come later are drawn, in its precision.
        device: to draw on.

    Raises:
        CannotRun: the base is no pipeline that can be run.
    """
    held: dict[str, Any] = {
        "device": device, "dtype": dtype_of(survey.precision), "options": options, "memory": survey.memory
    }  # fmt: skip
    runner = Runner(pairs[0], **held)
    pipeline = runner.pipeline
    _, shown, _ = prompts.choose_prompts(file, pipeline.tokenizer, survey.trajectories, count, seed)
    seeds = [SEEDS + seed + k for k in range(count)]

    def draw() -> list[Any]:
        return [
            runner.sample(
                prompt=prompt, num_inference_steps=STEPS, generator=torch.Generator().manual_seed(own)
            ).images[0]
            for prompt, own in zip(shown, seeds, strict=True)
        ]

    loaded = file_format.read(adapter)
    names = [f" {branch}" for branch in loaded.branches] or [""]
    columns: dict[str, list[Any]] = {}
    for name, pair in zip(names, pairs, strict=True):
        teacher = Runner(pair, pipeline, **held)
        teacher.mix(1.0)
        columns[f"teacher{name}"] = draw()
        teacher.mix(0.0)
    columns["base"] = draw()
    loaded_as = loading.load_adapter(
        pipeline, loaded, None, source=str(adapter), low_cpu_mem_usage=True, strict=True, allowed=loaded.components
    )
    name = loaded_as.adapter_name
    StyleInjectLoaderMixin.set_styleinject_adapters(pipeline, name)
    for own, style in zip(names, loaded.branches or [None] * len(names), strict=True):
        if style is not None:
            StyleInjectLoaderMixin.set_styles(pipeline, {style: 1.0})
        columns[f"adapter{own}"] = draw()
    order = [title for own in names for title in (f"teacher{own}", f"adapter{own}")]
    return [
        ImageRow(prompt, own, {title: columns[title][k] for title in (*order, "base")})
        for k, (prompt, own) in enumerate(zip(shown, seeds, strict=True))
    ]
