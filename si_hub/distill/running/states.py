"""Points of sampling trajectories, and what predicts the noise in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from si_hub.work.folder import WorkEntry


@dataclass(frozen=True, slots=True)
class States:
    """Points of sampling trajectories: what the denoiser is called with, but for the text.

    Attributes:
        inputs: arguments of the denoiser with one row a state; those of ``added_cond_kwargs`` by their own names.
        shared: arguments that all states share.
        prompts: one a state; ``None`` is the null prompt of classifier-free guidance.
        place: of each state in the noise schedule, 0 (picture) to 1 (noise).
        scale: of each state, what its prediction is multiplied with to be predicted noise.
    """

    inputs: dict[str, Tensor]
    shared: dict[str, Tensor]
    prompts: tuple[str | None, ...]
    place: Tensor
    scale: Tensor

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, rows: slice | Sequence[int]) -> States:
        picked = list(range(len(self))[rows]) if isinstance(rows, slice) else list(rows)
        inputs = {name: value[picked] for name, value in self.inputs.items()}
        prompts = tuple(self.prompts[row] for row in picked)
        return replace(self, inputs=inputs, prompts=prompts, place=self.place[picked], scale=self.scale[picked])

    def batches(self, size: int) -> list[States]:
        """The states in order, ``size`` at a time."""
        return [self[start : start + size] for start in range(0, len(self), size)]

    def with_word(self, word: str) -> States:
        """The same states with a word after every prompt; alone it takes the null prompt's place."""
        return replace(self, prompts=tuple(word if p is None else f"{p}, {word}" for p in self.prompts))

    def as_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and facts that `from_entry` makes the states of again."""
        tensors = {f"inputs.{name}": value for name, value in self.inputs.items()}
        tensors |= {f"shared.{name}": value for name, value in self.shared.items()}
        return {**tensors, "place": self.place, "scale": self.scale}, {"prompts": list(self.prompts)}

    @classmethod
    def from_entry(cls, entry: WorkEntry) -> States:
        """The states that were kept under a name."""
        tensors = {name: tensor.torch() for name, tensor in entry.tensors.items()}
        inputs, shared = (
            {name.removeprefix(kind): value for name, value in tensors.items() if name.startswith(kind)}
            for kind in ("inputs.", "shared.")
        )
        return cls(inputs, shared, tuple(entry.facts["prompts"]), tensors["place"], tensors["scale"])

    @classmethod
    def join(cls, several: Sequence[States]) -> States:
        """All states of several trajectories of one pipeline."""
        first = several[0]
        return cls(
            {name: torch.cat([states.inputs[name] for states in several]) for name in first.inputs},
            first.shared,
            tuple(prompt for states in several for prompt in states.prompts),
            torch.cat([states.place for states in several]),
            torch.cat([states.scale for states in several]),
        )


class Predictor(Protocol):
    """What predicts the noise in states: gradients flow into latents, denoiser and text encoders."""

    def __call__(self, states: States) -> Tensor:
        """The predicted noise (the velocity of flow-matching models), ``[len(states), ...]``."""
