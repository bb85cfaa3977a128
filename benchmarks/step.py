"""What a whole step of a denoiser costs with an adapter, against PEFT's LoRA of the same rank and modules.

    python -m benchmarks.step [--size 16] [--rank 16] [--rounds 5] [--dtype float32] [--only add fused] [--json]

On a U-Net of Stable Diffusion 1.5's size with random weights, two instances, one thread, CPU time. Base, PEFT and ours
are models of their own on the same weights and take turns; every ratio is the median over the rounds, within a round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch import nn

from si_hub import tuner
from si_hub.adapter import Component, Layer
from si_hub.storage.tensors import Tensor

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


def twin(unet: Any, own: tuple[str, ...] = ()) -> Any:
    """Another model on the same weights; with weights of its own for modules that end in ``own``."""
    with torch.device("meta"):
        other = UNet2DConditionModel.from_config(unet.config)
    weights = unet.state_dict()
    ends = tuple(f"{end}.weight" for end in own)
    other.load_state_dict(
        {key: value.clone() if ends and key.endswith(ends) else value for key, value in weights.items()}, assign=True
    )
    return other.eval().requires_grad_(False)


def make_layers(unet: nn.Module, rank: int, branches: int, transform: Any) -> Component:
    """Random pairs for the attention's projections, with a learned router where there are several branches."""
    layers = {}
    for path, module in unet.named_modules():
        if path.endswith(PROJECTIONS) and isinstance(module, nn.Linear):
            tensors = {
                "down.weight": torch.randn(branches * rank, module.in_features) / module.in_features**0.5,
                "up.weight": 0.1 * torch.randn(module.out_features, rank),
            }
            if branches > 1:
                tensors["router.weight"] = torch.randn(branches, module.in_features)
                tensors["router.bias"] = torch.zeros(branches)
            stored = {name: Tensor.from_torch(value) for name, value in tensors.items()}
            layers[path] = Layer(stored, transform=transform)
    return Component(type(unet).__name__, layers)


def make_ways(unet: Any, rank: int, only: Sequence[str] = ()) -> dict[str, Any]:
    """The models by what acts in them; of ours those alone whose names end in one of ``only``."""
    lora = twin(unet)
    lora.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(PROJECTIONS), init_lora_weights=False))
    ways = {"base": unet, "PEFT's LoRA": lora.requires_grad_(False)}
    kinds: dict[str, tuple[int, Any]] = {
        "one branch, add": (1, "add"),
        "four learned branches, add": (4, "add"),
        "one branch, variance": (1, "variance"),
    }
    for name, (branches, transform) in kinds.items():
        if only and not name.endswith(tuple(only)):
            continue
        ways[name] = twin(unet)
        tuner.inject(ways[name], make_layers(unet, rank, branches, transform), name="a")
    if only and "fused" not in only:
        return ways
    ways["one branch, fused"] = twin(unet, PROJECTIONS)
    tuner.inject(ways["one branch, fused"], make_layers(unet, rank, 1, "add"), name="a")
    tuner.fuse_in_place(ways["one branch, fused"], ["a"])
    return ways


def measure(
    size: int, rank: int, rounds: int, dtype: torch.dtype, only: Sequence[str] = ()
) -> dict[str, dict[str, float]]:
    """For every way the seconds of a step, and its time by that of the base and of PEFT's LoRA."""
    unet: Any = UNet2DConditionModel(cross_attention_dim=768, sample_size=64).eval().requires_grad_(False).to(dtype)
    ways = make_ways(unet, rank, only)
    given = torch.randn(2, 4, size, size, dtype=dtype), torch.tensor(500), torch.randn(2, 77, 768, dtype=dtype)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for name, model in ways.items():
                start = time.process_time()
                model(*given)
                taken[name].append(time.process_time() - start)
    base, lora = taken["base"][1:], taken["PEFT's LoRA"][1:]
    return {
        name: {
            "seconds": statistics.median(own[1:]),
            "of the base": statistics.median(one / other for one, other in zip(own[1:], base, strict=True)),
            "of PEFT's LoRA": statistics.median(one / other for one, other in zip(own[1:], lora, strict=True)),
        }
        for name, own in taken.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=16, help="of the latents; 64 is a picture of 512")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--only", nargs="+", default=[], help="of ours: add, variance, fused")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = measure(options.size, options.rank, options.rounds, getattr(torch, options.dtype), options.only)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for name, figures in found.items():
        ratios = "   ".join(f"{value:.3f} {what}" for what, value in figures.items())
        print(f"{name:<28}{ratios}")


if __name__ == "__main__":
    main()
