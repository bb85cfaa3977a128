"""What loading somebody else's adapter as it is costs, the first time and again, against its StyleInject file.

    python benchmarks/load_foreign.py [--kinds lora loha dora] [--runs 7] [--json]

The UNet has the size of Stable Diffusion XL, in float16 with arbitrary weights (5 GB); nothing is drawn. Figures are
seconds of CPU, the first time and then the least of several runs. A DoRA is a function of the UNet's weights: it is
computed each time, and no StyleInject file of it is made here.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.update({"HF_HUB_OFFLINE": "1", "DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error"})

import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import save_file

import si_hub
from si_hub.architectures.bases import BY_NAME

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
KINDS = ("lora", "loha", "dora")
PAIR_RANK, LOHA_RANK = 16, 4


def pipeline() -> Any:
    """A pipeline with a UNet of SDXL's size alone."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config({**BY_NAME["sdxl"].components["unet"].config})
    unet = unet.half().to_empty(device="cpu")
    for parameter in unet.parameters():
        torch.nn.init.constant_(parameter, 0.01)
    return StableDiffusionXLPipeline(
        vae=None, text_encoder=None, text_encoder_2=None, tokenizer=None, tokenizer_2=None, unet=unet,
        scheduler=DDIMScheduler(clip_sample=False),
    )  # fmt: skip


def write_adapter(unet: Any, file: Path, kind: str) -> int:
    """A float16 adapter under kohya's names for attention and feed-forward layers; returns its number of modules."""
    tensors: dict[str, torch.Tensor] = {}
    modules = [name for name, _ in unet.named_modules() if name.endswith(TARGETS) and "attentions" in name]
    for name in modules:
        rows, columns = unet.get_submodule(name).weight.shape
        stem = "lora_unet_" + name.replace(".", "_")
        rank = LOHA_RANK if kind == "loha" else PAIR_RANK
        halves = ("hada_w1_b", "hada_w1_a", "hada_w2_b", "hada_w2_a") if kind == "loha" else (
            "lora_down.weight", "lora_up.weight"
        )  # fmt: skip
        for down, up in zip(halves[::2], halves[1::2], strict=True):
            tensors[f"{stem}.{down}"] = torch.randn(rank, columns).half()
            tensors[f"{stem}.{up}"] = torch.randn(rows, rank).half()
        if kind == "dora":
            tensors[f"{stem}.dora_scale"] = torch.ones(rows, 1).half()
        tensors[f"{stem}.alpha"] = torch.tensor(rank / 2)
    save_file(tensors, file)
    return len(modules)


def seconds(pipe: Any, file: Path) -> float:
    """Of CPU, to load a file; the pipeline is as before."""
    begin = time.process_time()
    pipe.load_styleinject_weights(file)
    taken = time.process_time() - begin
    pipe.unload_styleinject_weights()
    return taken


def measure(folder: Path, kinds: list[str], runs: int) -> dict[str, float]:
    si_hub.enable()
    pipe = pipeline()
    figures: dict[str, float] = {}
    for kind in kinds:
        source = folder / f"{kind}.safetensors"
        figures[f"{kind}, modules"] = write_adapter(pipe.unet, source, kind)
        figures[f"{kind}, MB"] = source.stat().st_size / 1e6
        figures[f"{kind}, kept: first"] = seconds(pipe, source)
        files = {f"{kind}, kept: again": source}
        if kind != "dora":
            files[f"{kind}, converted"] = si_hub.convert(source, base="sdxl", allow_large=True).path
            figures[f"{kind}, converted, MB"] = files[f"{kind}, converted"].stat().st_size / 1e6
        # In turn, so that what else this machine does meets both.
        rounds = [{name: seconds(pipe, file) for name, file in files.items()} for _ in range(runs)]
        figures |= {name: min(taken[name] for taken in rounds) for name in files}
        if kind == "loha":
            kept, os.environ["SI_HUB_CONVERTED"] = os.environ["SI_HUB_CONVERTED"], "off"
            figures[f"{kind}, not kept"] = min(seconds(pipe, source) for _ in range(runs))
            os.environ["SI_HUB_CONVERTED"] = kept
        if kind != "dora":
            files[f"{kind}, converted"].unlink()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SI_HUB_CONVERTED"] = str(Path(folder) / "kept")
        figures = measure(Path(folder), options.kinds, options.runs)
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:<34}{value:10.2f}")


if __name__ == "__main__":
    main()
