"""A base model of a few modules with numbers, and what an adapter of it makes of each weight and bias."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from si_hub import converters
from si_hub.architectures import Architecture, Model
from si_hub.architectures.layouts import Part
from si_hub.architectures.model import Module
from si_hub.converters.checking import differ_by_layer
from si_hub.converters.dense import BaseModule
from si_hub.converters.families.contract import Target

#: Modules: kind, shape of the weight, whether there is a bias.
MODULES = {
    "mid_block.linear": Module("linear", (32, 16), bias=True),
    "mid_block.square": Module("linear", (16, 16)),
    "mid_block.point": Module("conv", (32, 16, 1, 1), bias=True),
    "mid_block.conv": Module("conv", (32, 16, 3, 3), bias=True),
    "mid_block.norm": Module("norm", (24,), bias=True),
    "mid_block.table": Module("embedding", (20, 16)),
}
TINY = Architecture("tiny", {"unet": Model("UNet2DConditionModel", MODULES)})

Pair = tuple[torch.Tensor, torch.Tensor | None]


def stem_of(path: str) -> str:
    """kohya's and LyCORIS's name of a module."""
    return f"lora_unet_{path.replace('.', '_')}"


def weights(seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, dict[str, torch.Tensor]]:
    """Random weights and biases, by component and name."""
    generator = torch.Generator().manual_seed(seed)
    held: dict[str, torch.Tensor] = {}
    for path, module in MODULES.items():
        held[f"{path}.weight"] = torch.randn(module.shape, generator=generator).to(dtype)
        if module.bias:
            held[f"{path}.bias"] = torch.randn(module.shape[0], generator=generator).to(dtype)
    return {"unet": held}


class Held:
    """A parameter in memory."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.shape, self._tensor = tuple(tensor.shape), tensor

    def torch(self) -> torch.Tensor:
        return self._tensor


def as_parameters(held: dict[str, dict[str, torch.Tensor]]) -> dict[str, dict[str, Held]]:
    return {name: {key: Held(value) for key, value in tensors.items()} for name, tensors in held.items()}


def convert(
    file: Path, state: dict[str, torch.Tensor], held: dict[str, dict[str, torch.Tensor]] | None, **options: Any
) -> converters.Conversion:
    """Write the tensors as a file and convert it for the tiny base model."""
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
    return convert_saved(file, held, **options)


def convert_saved(path: Path, held: dict[str, dict[str, torch.Tensor]] | None, **options: Any) -> converters.Conversion:
    """Convert a file or folder for the tiny base model."""
    own = None if held is None else as_parameters(held)
    return converters.convert_source(path, base=TINY, weights=own, **{"allow_large": True, **options})


def merge(found: converters.Conversion, path: str, held: dict[str, dict[str, torch.Tensor]]) -> Pair:
    """Weight and bias of a module with the converted adapter in it, float64, by docs/FORMAT.md."""
    module = MODULES[path]
    own = BaseModule(as_parameters(held), "unet", (Part(path),), MODULES, Path("adapter"), path)
    target = Target(module.kind, module.shape, module.bias)
    layer = found.adapter.components["unet"].layers[path]
    change = differ_by_layer(layer, target, own)
    weight = own.weight() + (change.weight() if change.weight else 0)
    bias = own.bias() if module.bias else None
    return weight, bias if bias is None or not change.bias else bias + change.bias()
