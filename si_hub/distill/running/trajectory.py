"""States of a model's own sampling: no images are needed to know where it will be asked for noise."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from si_hub.distill.request import STEPS
from si_hub.distill.running.runner import LISTED_TEXT, SHARED, Runner
from si_hub.distill.running.states import States
from si_hub.errors import CannotRun
from si_hub.training.encoding import MASKS, POOLED
from si_hub.words import option

#: Share of the states with the null prompt, which guidance asks for in every second call.
NULL_SHARE = 0.15
#: Arguments of a denoiser that are made from the prompt: each state gets them from `Runner.encode`.
_TEXT = frozenset({"encoder_hidden_states", LISTED_TEXT, *POOLED, *MASKS})


class _Calls:
    """What the denoiser is called with while a pipeline runs."""

    def __init__(self, runner: Runner) -> None:
        self.signature = inspect.signature(runner.denoiser.forward)
        self.found: list[dict[str, Any]] = []

    def __call__(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = self.signature.bind(*args, **kwargs).arguments
        given.update(given.pop("added_cond_kwargs", None) or {})
        tensors = {name: _as_tensor(name, value) for name, value in given.items() if name not in _TEXT}
        self.found.append({name: value for name, value in tensors.items() if value is not None})


def _as_tensor(name: str, value: Any) -> Tensor | None:
    """An argument as a tensor of all samples, or of what they share; ``None`` for settings that are no tensors."""
    if name == "img_shapes":
        return torch.tensor(value[0])
    if isinstance(value, list) and value and all(isinstance(one, Tensor) for one in value):
        return torch.stack(value)
    return value if isinstance(value, Tensor) else None


@torch.no_grad()
def trajectories(runner: Runner, prompts: Sequence[str], seeds: Sequence[int], steps: int = STEPS) -> list[States]:
    """The states of each step of the pipeline's own sampling, one trajectory a prompt, with guidance as it is used.

    Args:
        runner: its weights decide whose trajectory it is.
        prompts: one trajectory each, all in one batch.
        seeds: of each trajectory's noise.
        steps: of sampling.

    Raises:
        CannotRun: the pipeline does not call its denoiser once or twice a step, or draws no numbers.
    """
    calls = _Calls(runner)
    handle = runner.denoiser.register_forward_pre_hook(calls, with_kwargs=True)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    try:
        last = runner.sample(
            prompt=list(prompts), num_inference_steps=steps, generator=generators, output_type="latent"
        )
    finally:
        handle.remove()
    if not torch.as_tensor(last.images).isfinite().all():
        raise CannotRun(
            "its own sampling ends in NaN or infinity",
            file=runner.pair.tuned.path if runner.share else runner.pair.base.path,
            hint=f"A weight of it is damaged, or its numbers are too large for {option('precision', 'fp16')}.",
        )
    scheduler = runner.pipeline.scheduler
    times = scheduler.timesteps.cpu().double()
    each, odd = divmod(len(calls.found), len(times))
    if odd or not 1 <= each <= 2:
        raise CannotRun("the pipeline calls its denoiser in a way that is not known here", file=runner.pair.base.path,
                        expected=f"once or twice in each of {len(times)} steps", found=len(calls.found))  # fmt: skip
    return [_state(call, prompts, scheduler, float(t)) for call, t in zip(calls.found[::each], times, strict=True)]


def _state(call: dict[str, Any], prompts: Sequence[str], scheduler: Any, time: float) -> States:
    """One call's states with their prompts, the null prompts' rows left out: those come first in a batch."""
    count = len(prompts)
    rows = next(value.shape[0] for value in call.values() if value.ndim > 2)
    inputs: dict[str, Tensor] = {}
    shared: dict[str, Tensor] = {}
    for name, value in call.items():
        if name in SHARED:
            shared[name] = value.cpu()
        else:
            inputs[name] = (
                value.expand(rows, *value.shape[1:])[rows - count :].cpu() if value.ndim else value.expand(count).cpu()
            )
    place = time / int(scheduler.config.num_train_timesteps)
    return States(
        inputs, shared, tuple(prompts), torch.full((count,), place), torch.full((count,), noise_scale(scheduler, time))
    )


def noise_scale(scheduler: Any, time: float) -> float:
    """What turns an error of the prediction into one of predicted noise: √ᾱ for v-prediction, else 1.

    With v = √ᾱ ε − √(1−ᾱ) x0 the noise is √ᾱ v + √(1−ᾱ) x_t (Salimans & Ho, arXiv 2202.00512).
    """
    if scheduler.config.get("prediction_type") != "v_prediction":
        return 1.0
    kept = scheduler.alphas_cumprod
    return float(kept[min(max(round(time), 0), len(kept) - 1)].sqrt())


def pick(steps: Sequence[States], per_prompt: int, null_share: float, seeds: Sequence[int]) -> States:
    """Of each trajectory so many of its steps, spread over all of them, some with the null prompt instead.

    Args:
        steps: from `trajectories`.
        per_prompt: states of each trajectory.
        null_share: share of null prompts.
        seeds: of each trajectory's choice.
    """
    chosen: list[States] = []
    for row, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        offsets = torch.rand(per_prompt, generator=generator)
        null = torch.rand(per_prompt, generator=generator) < null_share
        for k in range(per_prompt):
            state = steps[int((k + float(offsets[k])) * len(steps) / per_prompt)][[row]]
            chosen.append(_without_prompt(state) if null[k] else state)
    return States.join(chosen)


def _without_prompt(state: States) -> States:
    return States(state.inputs, state.shared, (None,) * len(state), state.place, state.scale)
