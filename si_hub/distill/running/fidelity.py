"""How much of the way from base to tuned model an adapter leaves: measured by running all three.

The measure is the squared error of the predicted noise, divided by the base's own: 0 is the tuned model, 1 the base.
States are those of the tuned model's own trajectories, of prompts and noise that nothing else has used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from si_hub.adapter import Adapter, BaseModel, Component
from si_hub.distill.running.runner import Runner
from si_hub.distill.running.states import States
from si_hub.errors import UsageError
from si_hub.pipelines import loading, registry
from si_hub.words import option

#: Equal parts of the noise schedule that errors are given for.
BUCKETS = 5
#: Kinds of prompts that errors are given for, by their names in the document.
KINDS = ("prompt", "null")
_NAME = "distilled"


@dataclass(frozen=True, slots=True)
class Fidelity:
    """A measurement.

    Attributes:
        error: squared error over all states, divided by the base's.
        by_bucket: the same in each fifth of the noise schedule, little noise first; ``None`` where no state lies.
        states: how many were measured.
        by_kind: the same of states with a prompt, and of those with the null prompt that guidance asks for; ``None``
            where no state is of a kind.
    """

    error: float
    by_bucket: tuple[float | None, ...]
    states: int
    by_kind: tuple[float | None, ...] = (None, None)


class Measure:
    """Measures adapters against the tuned model on the same states.

    Args:
        runner: the pipeline; it has the base's weights afterwards.
        states: where to measure.
        batch: states at once.
        tuned, base: what tuned model and base predict there, as `references` has it.

    Raises:
        UsageError: the two predict the same.
    """

    def __init__(self, runner: Runner, states: States, batch: int, tuned: Tensor, base: Tensor) -> None:
        self.runner, self.states, self.batch = runner, states, batch
        self.tuned = tuned
        self.base = _squares(base, tuned)
        if not self.base.any():
            raise unfelt(runner.pair.tuned.path)

    def of(self, components: Mapping[str, Component]) -> Fidelity:
        """The measurement of an adapter, loaded into the pipeline as any user loads it."""
        self.runner.mix(0.0)
        with adapter_in(self.runner.pipeline, components):
            return self.present()

    def present(self, word: str | None = None) -> Fidelity:
        """The measurement of the pipeline as it is, with whatever is loaded beside the base's weights.

        Args:
            word: that the pipeline is told in every prompt, as `States.with_word` has it; the tuned model was not.
        """
        states = self.states if word is None else self.states.with_word(word)
        own = _squares(predictions(self.runner, states, self.batch), self.tuned)
        bucket = (self.states.place * BUCKETS).long().clamp(0, BUCKETS - 1)
        kind = torch.tensor([int(prompt is None) for prompt in self.states.prompts])

        def left(rows: Tensor) -> float | None:
            whole = float(self.base[rows].sum())
            return float(own[rows].sum()) / whole if whole else None

        return Fidelity(
            float(own.sum() / self.base.sum()),
            tuple(left(bucket == k) for k in range(BUCKETS)),
            len(self.states),
            tuple(left(kind == k) for k in range(len(KINDS))),
        )


def unfelt(tuned: Path) -> UsageError:
    """The error for a difference that no prompt of the run brings out, such as a new token's."""
    return UsageError(
        "predicts with these prompts what the base predicts", file=tuned,
        hint=f"Give prompts that bring out what was tuned, with {option('prompts')}, or use {option('method', 'svd')}.",
    )  # fmt: skip


def references(runner: Runner, states: States, batch: int) -> dict[str, Tensor]:
    """What tuned model and base predict, for a `Measure`."""
    found = {}
    for name, share in (("tuned", 1.0), ("base", 0.0)):
        runner.mix(share)
        found[name] = predictions(runner, states, batch)
    return found


@torch.no_grad()
def predictions(runner: Runner, states: States, batch: int) -> Tensor:
    """The predicted noise in all states, on the CPU."""
    return torch.cat([runner(part).cpu() for part in states.batches(batch)])


def _squares(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Squared distance of each state's prediction, float64."""
    return (predicted - wanted).double().square().flatten(1).mean(1)


@contextmanager
def adapter_in(pipeline: Any, components: Mapping[str, Component]) -> Iterator[None]:
    """An adapter's layers in a pipeline while the block runs; without layers nothing happens."""
    if not components:
        yield
        return
    adapter = Adapter(BaseModel("custom"), dict(components))
    loading.load_adapter(
        pipeline, adapter, _NAME, source=_NAME, low_cpu_mem_usage=False, strict=True, allowed=components
    )
    try:
        loading.activate(registry.models(pipeline), {name: {_NAME: 1.0} for name in components})
        yield
    finally:
        loading.unload_adapters(pipeline, [_NAME])


def document_field(found: Fidelity, timesteps: int, **facts: Any) -> dict[str, Any]:
    """The ``fidelity`` field of an adapter's document.

    Args:
        found: the measurement.
        timesteps: of the noise schedule.
        facts: what else is known: prompts, seed, what was carried.
    """
    buckets = [
        {"start": k * timesteps // BUCKETS, "end": (k + 1) * timesteps // BUCKETS, "error": _round(error)}
        for k, error in enumerate(found.by_bucket)
        if error is not None
    ]
    kinds = {name: _round(error) for name, error in zip(KINDS, found.by_kind, strict=True) if error is not None}
    return {
        "measure": "squared error of the predicted noise, divided by the base's",
        "error": _round(found.error),
        "by_timestep": buckets,
        **({"by_prompt": kinds} if kinds else {}),
        "states": found.states,
        **facts,
    }


def _round(value: float) -> float:
    return float(f"{value:.4g}")
