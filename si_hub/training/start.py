"""What a training starts from: an adapter that changes nothing yet."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch

from si_hub.adapter import Component, Layer
from si_hub.architectures import Architecture, Model
from si_hub.errors import BaseMismatch
from si_hub.storage.tensors import Tensor
from si_hub.training.settings import Settings

_ATTENTION = re.compile(r"\.(attn\d?|self_attn|attention|cross_attn|to_[qkv]|add_[qkv]_proj)\b")
#: Modules that no adapter of the field trains: of time, text and norms, which act on all tokens alike.
_LEFT = re.compile(r"norm|emb|time|modulation|_mod\b|\.mod\b")
#: Spread that a learned router's weights start with: all branches share at first, and none is like another.
_ROUTER = 0.01


def start_components(
    architecture: Architecture, denoiser: str, settings: Settings, seed: int, *, named: bool
) -> dict[str, Component]:
    """Pairs of the wanted rank, ``up`` zero and ``down`` as PEFT's LoRA has it.

    Args:
        denoiser: the component that is trained; text encoders are too where the settings say so.
        named: whether the branches are styles by name, whose mix is fixed.

    Raises:
        BaseMismatch: the model has no layer of the kind that is to be trained.
    """
    components = {denoiser: architecture.components[denoiser]}
    if settings.text_encoder:
        components |= {name: model for name, model in architecture.components.items() if name.startswith("text_enc")}
    found = {}
    for name, model in components.items():
        generator = torch.Generator().manual_seed(seed)
        layers = {
            path: _start_layer(model, path, settings, generator, named=named)
            for path in chosen_layers(model, settings.layers if name == denoiser else "linear")
        }
        if not layers:
            raise BaseMismatch("has no layers of that kind", key=name, found=settings.layers)
        found[name] = Component(model.class_name, layers)
    return found


def chosen_layers(model: Model, kind: str) -> list[str]:
    """Paths of the modules to train: those of the repeated blocks, of which the kind says how many."""
    found = []
    for path, module in model.modules.items():
        repeated = any(part.isdecimal() for part in path.split("."))
        wanted = {
            "attention": module.kind == "linear" and bool(_ATTENTION.search(path)),
            "linear": module.kind == "linear",
            "all": module.kind in {"linear", "conv"},
        }[kind]
        if wanted and repeated and not _LEFT.search(path):
            found.append(path)
    return found


def _start_layer(model: Model, path: str, settings: Settings, generator: torch.Generator, *, named: bool) -> Layer:
    out, into, *kernel = model.modules[path].shape
    rank, n = settings.rank, settings.branches
    bound = 1.0 / math.sqrt(into * math.prod(kernel))
    down = torch.empty(n * rank, into, *kernel).uniform_(-bound, bound, generator=generator)
    tensors: Mapping[str, torch.Tensor] = {"down.weight": down, "up.weight": torch.zeros(out, rank)}
    if n > 1:
        tensors = {**tensors, "router.bias": torch.zeros(n)}
        if settings.router == "learned" and not named:
            weight = torch.empty(n, into).normal_(0.0, _ROUTER, generator=generator)
            tensors = {**tensors, "router.weight": weight}
    held = {leaf: Tensor.from_torch(value) for leaf, value in tensors.items()}
    return Layer(held, float(rank), settings.transform)  # type: ignore[arg-type]
