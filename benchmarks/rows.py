"""What it costs that every picture of a batch has a style of its own: eight styles in eight rows against one for all.

    python -m benchmarks.rows [--size 16] [--repeats 3] [--json]

On a U-Net of Stable Diffusion 1.5's size with random weights, rank 4 on all attention projections, one thread, CPU
time, the fastest of several runs in turns. The adapter has 8 styles, then 1,000; all share the up matrices.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch import nn

import si_hub
from si_hub import Act
from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.storage.tensors import Tensor

ROWS, RANK = 8, 4
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


class Denoiser(DiffusionPipeline):
    """A pipeline of the U-Net alone."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.register_modules(unet=unet)


def make_styles(unet: nn.Module, count: int) -> Adapter:
    """An adapter of ``count`` named styles."""
    layers = {}
    for path, module in unet.named_modules():
        if path.endswith(PROJECTIONS) and isinstance(module, nn.Linear):
            down = torch.randn(count * RANK, module.in_features) / module.in_features**0.5
            tensors = {"down.weight": down, "up.weight": 0.1 * torch.randn(module.out_features, RANK)}
            tensors["router.bias"] = torch.zeros(count)
            layers[path] = Layer({name: Tensor.from_torch(value) for name, value in tensors.items()})
    names = tuple(f"style {number}" for number in range(count))
    return Adapter(BaseModel("sd15"), {"unet": Component("UNet2DConditionModel", layers)}, names)


def measure(pipe: Any, count: int, size: int, repeats: int) -> dict[str, float]:
    """Seconds of CPU time of one call with a batch of eight: the base, one style for all, a style for each row."""
    given = torch.randn(ROWS, 4, size, size), torch.tensor(500), torch.randn(ROWS, 77, 768)
    pipe.load_styleinject_weights(make_styles(pipe.unet, count), "styles")
    rows = [Act("styles", styles={f"style {number * (count // ROWS)}": 1.0}) for number in range(ROWS)]
    ways: dict[str, Callable[[], Any]] = {
        "base": lambda: pipe.styleinject([]),
        "one style, set": nullcontext,
        "one style, asked": lambda: pipe.styleinject(rows[1]),
        "a style each": lambda: pipe.styleinject(rows=rows),
    }
    pipe.set_styles({"style 1": 1.0})
    best = dict.fromkeys(ways, float("inf"))
    with torch.inference_mode():
        for _ in range(repeats):
            for name, way in ways.items():
                with way():
                    start = time.process_time()
                    pipe.unet(*given)
                    best[name] = min(best[name], time.process_time() - start)
    pipe.unload_styleinject_weights()
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=16, help="of the latents; 64 is a picture of 512")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    si_hub.enable()
    pipe = Denoiser(UNet2DConditionModel(cross_attention_dim=768, sample_size=64).eval())
    found = {}
    for count in (8, 1000):
        found[count] = times = measure(pipe, count, options.size, options.repeats)
        if not options.json:
            print(f"{count} styles")
            for name, seconds in times.items():
                print(f"  {name:<18} {seconds:7.3f} s  {seconds / times['one style, set']:.3f} of one style, set")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
