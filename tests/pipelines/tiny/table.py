"""Tiny pipelines by class: how each is made, and what it is called with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import nn

#: What a builder gives: the pipeline's parts, and the arguments of a call.
Made = tuple[dict[str, Any], dict[str, Any]]


@dataclass(frozen=True)
class Tiny:
    """A pipeline and a call of it.

    Attributes:
        pipe: with arbitrary weights, always the same.
        options: the call's arguments.
    """

    pipe: Any
    options: dict[str, Any]

    def draw(self) -> torch.Tensor:
        """Two steps from fixed noise: latents, of pictures or frames."""
        torch.manual_seed(1)
        options = {"output_type": "latent", **self.options, "generator": torch.Generator().manual_seed(2)}
        with torch.no_grad():
            found = self.pipe(**options)[0]
        return torch.as_tensor(found)


#: Sizes that a class draws in whatever it is asked for.
_SIZES: dict[str, dict[str, int]] = {"HiDreamImagePipeline": {"default_sample_size": 8}}

_BUILDERS: dict[str, Callable[[str], Made]] = {}


def tiny(*names: str) -> Callable[[Callable[[str], Made]], Callable[[str], Made]]:
    """Says which classes a function makes the parts of; it is called with the class's name."""

    def enter(build: Callable[[str], Made]) -> Callable[[str], Made]:
        _BUILDERS.update(dict.fromkeys(names, build))
        return build

    return enter


def classes() -> list[str]:
    """Every class that is built, by name."""
    return sorted(_BUILDERS)


def build(name: str) -> Tiny:
    """A tiny pipeline of a class, every weight from one seed."""
    torch.manual_seed(0)
    parts, options = _BUILDERS[name](name)
    for part in parts.values():
        if isinstance(part, nn.Module):
            part.eval()
            _settle(part)
    pipe = getattr(diffusers, name)(**parts)
    for attribute, value in _SIZES.get(name, {}).items():
        setattr(pipe, attribute, value)
    pipe.set_progress_bar_config(disable=True)
    return Tiny(pipe, {"num_inference_steps": 2, **options})


@torch.no_grad()
def _settle(model: nn.Module) -> None:
    """Numbers where a layer starts at zero or as it was in memory: what an adapter does behind it is seen."""
    draw = torch.Generator().manual_seed(3)
    for value in model.parameters():
        if value.is_floating_point() and (not torch.isfinite(value).all() or not value.any() or value.abs().max() > 10):
            value.copy_(0.1 * torch.randn(value.shape, generator=draw))
