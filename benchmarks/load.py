"""How long loading, weighing and unloading an adapter take, against diffusers' LoRA loading of the same file.

    python benchmarks/load.py [--rank 64] [--runs 5] [--json]

The UNet has the size of Stable Diffusion 1.5, in float16 with arbitrary weights; nothing is drawn. The LoRA covers
its attention and feed-forward layers; we load what `si-hub convert` makes of it. Both take turns; every figure is a
median over the runs. NaN and infinity are looked for in ours, not in theirs. Memory is that of the loaded tensors.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update({"HF_HUB_OFFLINE": "1", "DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error"})

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file

import si_hub

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")


def pipeline() -> Any:
    """A pipeline with a UNet of SD 1.5's size alone."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
    unet = unet.half().to_empty(device="cpu")
    for parameter in unet.parameters():
        torch.nn.init.constant_(parameter, 0.01)
    return StableDiffusionPipeline(
        vae=None, text_encoder=None, tokenizer=None, unet=unet, scheduler=DDIMScheduler(clip_sample=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def write_lora(unet: Any, file: Path, rank: int) -> int:
    """A kohya-named float16 LoRA for the attention and feed-forward layers; returns its number of modules."""
    tensors: dict[str, torch.Tensor] = {}
    modules = [name for name, _ in unet.named_modules() if name.endswith(TARGETS) and "attentions" in name]
    for name in modules:
        shape = unet.get_submodule(name).weight.shape
        stem = "lora_unet_" + name.replace(".", "_")
        tensors[f"{stem}.lora_down.weight"] = torch.randn(rank, *shape[1:]).half()
        tensors[f"{stem}.lora_up.weight"] = torch.randn(shape[0], rank, *[1] * (len(shape) - 2)).half()
        tensors[f"{stem}.alpha"] = torch.tensor(rank / 2)
    save_file(tensors, file)
    return len(modules)


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def measure(folder: Path, rank: int, runs: int) -> dict[str, float]:
    si_hub.enable()
    pipe = pipeline()
    source = folder / "lora.safetensors"
    modules = write_lora(pipe.unet, source, rank)
    converted = si_hub.convert(source, base="sd15").path
    steps: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "load": (
            lambda: pipe.load_styleinject_weights(converted, adapter_name="style"),
            lambda: pipe.load_lora_weights(source, adapter_name="style"),
        ),
        "set the weight": (
            lambda: pipe.set_styleinject_adapters("style", 0.5),
            lambda: pipe.set_adapters("style", 0.5),
        ),
        "unload": (pipe.unload_styleinject_weights, pipe.unload_lora_weights),
    }
    pipe.load_styleinject_weights(converted, adapter_name="style")
    held = [tensor for name, tensor in pipe.unet.named_parameters() if "styleinject" in name]
    memory = sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in held}.values())
    pipe.unload_styleinject_weights()
    times: dict[tuple[str, int], list[float]] = {}
    for _ in range(runs + 1):
        for side in (0, 1):
            for name, pair in steps.items():
                times.setdefault((name, side), []).append(seconds(pair[side]))
    figures: dict[str, float] = {"modules": modules, "file, MB": source.stat().st_size / 1e6}
    figures["memory, of its file"] = memory / converted.stat().st_size
    for name in steps:
        ours, theirs = times[name, 0][1:], times[name, 1][1:]
        figures[f"{name}, ms"] = 1000 * statistics.median(ours)
        figures[f"{name}, diffusers' LoRA, ms"] = 1000 * statistics.median(theirs)
        figures[f"{name}, ratio"] = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), options.rank, options.runs)
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:<34}{value:10.2f}")


if __name__ == "__main__":
    main()
