"""What an accelerator has to hold at once to distill a model of full size, by counting and without one.

    python -m benchmarks.distill_memory [--bases sd15 sdxl flux] [--resolution 1024] [--precision bf16]

The denoiser is made on torch's meta device, where tensors have shapes and no numbers, computed as
`si_hub.distill.running.blocks` does, forwards and backwards with a gradient looked at in every layer, one state at a
time. Counted are weights (what stays, and the largest block of any component, text encoders and autoencoder included),
what the graph keeps between blocks, what it keeps while the largest block is computed again, and the moments. Attention
is taken to keep what fused kernels keep. Not counted are buffers of single operations and the allocator's own slack.
`whole` is the same with every weight and activation held.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from si_hub.architectures.bases import BY_NAME
from si_hub.architectures.bases.contract import Blueprint
from si_hub.distill.running.assembling import empty_model
from si_hub.distill.running.blocks import Workplace, compute_by_blocks, innermost_blocks
from si_hub.distill.running.releases import RELEASES
from si_hub.distill.running.runner import dtype_of
from si_hub.distill.running.tracing import trace
from si_hub.distill.survey.curvature import limit_of
from si_hub.distill.survey.moments import moment

META = torch.device("meta")
#: Of Flux, whose autoencoder has sixteen channels and is else SDXL's.
_FLUX_VAE = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}


class _Fused(torch.autograd.Function):
    """Attention that keeps its inputs and its output, as fused kernels do."""

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        context.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(map(torch.empty_like, context.saved_tensors[:3]))


def _fused(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    found: Tensor = _Fused.apply(query, key, value)  # type: ignore[no-untyped-call]
    return found


@dataclass
class Kept:
    """Bytes that a graph keeps, each storage once; they are held: addresses are used again."""

    storages: dict[int, torch.UntypedStorage] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(storage.nbytes() for storage in self.storages.values())

    @contextmanager
    def counting(self, weights: set[int]) -> Iterator[None]:
        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                self.storages[storage._cdata] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            yield


def components_of(base: str) -> dict[str, nn.Module]:
    """The models of a base, without memory."""
    blueprints = dict(BY_NAME[base].components)
    if base in RELEASES:
        blueprints = dict(RELEASES[base].models)
    else:
        vae = RELEASES["sdxl"].models["vae"]
        blueprints["vae"] = Blueprint("", vae.library, vae.class_name, {**vae.config, **_FLUX_VAE})
    found = {name: empty_model(part.library, part.class_name, part.config) for name, part in blueprints.items()}
    for model in found.values():
        if tie := getattr(model, "tie_weights", None):
            tie()
    return found


def inputs_of(base: str, denoiser: Any, side: int, dtype: torch.dtype) -> dict[str, Tensor | dict[str, Tensor]]:
    """The arguments of one call of a denoiser, for pictures of ``side`` pixels."""
    config, edge = denoiser.config, side // 8

    def of(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=META)

    if base != "flux":
        given: dict[str, Any] = {
            "sample": of(1, config.in_channels, edge, edge), "timestep": of(1),
            "encoder_hidden_states": of(1, 77, config.cross_attention_dim),
        }  # fmt: skip
        if config.addition_embed_type:
            given["added_cond_kwargs"] = {"text_embeds": of(1, 1280), "time_ids": of(1, 6)}
        return given
    tokens = (edge // 2) ** 2
    return {
        "hidden_states": of(1, tokens, config.in_channels), "timestep": of(1), "guidance": of(1),
        "encoder_hidden_states": of(1, 512, config.joint_attention_dim), "pooled_projections": of(1, 768),
        "img_ids": of(tokens, 3), "txt_ids": of(512, 3),
    }  # fmt: skip


def _bytes(tensors: Iterator[nn.Parameter]) -> int:
    return sum(one.nbytes for one in tensors)


def _matrices(models: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Linear layers and convolutions that may have been tuned."""
    return {
        f"{component}.{name}": module for component, model in models.items() if component != "vae"
        for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)
    }  # fmt: skip


def moment_bytes(models: dict[str, nn.Module]) -> int:
    """Of the moments of all layers."""
    layers: list[Any] = []
    for module in _matrices(models).values():
        weight: Any = module.weight
        layers.append(SimpleNamespace(matrix=(weight.shape[0], prod(weight.shape[1:]))))
    limit = limit_of(layers)
    moments = [moment(width, limit, META) for layer in layers for width in layer.matrix]
    return sum(tensor.nbytes for one in moments for tensor in one.tensors.values())


def activations(base: str, denoiser: nn.Module, side: int, dtype: torch.dtype, *, by_blocks: bool) -> tuple[int, int]:
    """Bytes that a backward pass keeps at the borders of blocks, and at most in one of them."""
    weights = {one.untyped_storage()._cdata for one in denoiser.parameters()}
    largest = 0

    def counted(forward: Callable[..., Any]) -> Callable[..., Any]:
        def compute(*args: Any, **kwargs: Any) -> Any:
            nonlocal largest
            inside = Kept()
            with inside.counting(weights):
                output = forward(*args, **kwargs)
            largest = max(largest, inside.total)
            return output

        return compute

    if by_blocks:
        for block in innermost_blocks(denoiser):
            block.forward = counted(block.forward)
        compute_by_blocks([denoiser], Workplace(META))
    borders = Kept()
    modules: Any = {("", name): one for name, one in denoiser.named_modules() if isinstance(one, nn.Linear | nn.Conv2d)}
    with (
        patch.object(nn.functional, "scaled_dot_product_attention", _fused), trace(modules, 1, lambda *call: None),
        borders.counting(weights), torch.enable_grad(),
    ):  # fmt: skip
        predicted = denoiser(**inputs_of(base, denoiser, side, dtype), return_dict=False)[0]
        kept = borders.total
        predicted.sum().backward()
    return kept, largest


def row(base: str, side: int, precision: str) -> list[str]:
    """The line of a base."""
    dtype = dtype_of(precision)
    models = {name: model.to(dtype).requires_grad_(False).eval() for name, model in components_of(base).items()}
    name = next(name for name in ("transformer", "unet") if name in models)
    everything = sum(_bytes(model.parameters()) for model in models.values())
    blocks = {key: innermost_blocks(model) for key, model in models.items()}
    inside = sum(_bytes(block.parameters()) for own in blocks.values() for block in own)
    largest = max(_bytes(block.parameters()) for own in blocks.values() for block in own)
    moments = moment_bytes(models)
    whole, _ = activations(base, models[name], side, dtype, by_blocks=False)
    borders, within = activations(base, models[name], side, dtype, by_blocks=True)
    parts = [everything - inside, largest, borders, within, moments]
    return [base, *(f"{part / 1e9:.2f}" for part in (*parts, sum(parts), everything + whole + moments))]


def main() -> None:
    parser = argparse.ArgumentParser(description="What an accelerator holds at once, in GB.")
    parser.add_argument("--bases", nargs="+", default=["sd15", "sdxl", "flux"], choices=["sd15", "sdxl", "flux"])
    parser.add_argument("--resolution", type=int, default=1024, help="side of the pictures")
    parser.add_argument("--precision", default="bf16", choices=["no", "fp16", "bf16"])
    options = parser.parse_args()
    headings = [
        "base",
        "weights that stay",
        "largest block",
        "between blocks",
        "in a block",
        "moments",
        "sum, GB",
        "whole, GB",
    ]
    print(f"| {' | '.join(headings)} |\n|{'---|' * len(headings)}")
    for base in options.bases:
        print(f"| {' | '.join(row(base, options.resolution, options.precision))} |", flush=True)


if __name__ == "__main__":
    main()
