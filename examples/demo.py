"""The whole way in one run: a kohya LoRA file, `si-hub convert`, one line to load it, and a changed picture.

The base model is a small StableDiffusionPipeline built from a seed, so nothing is downloaded; its weights are
random, so its pictures are patterns. Run with ``make demo`` or ``python examples/demo.py --out demo``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from diffusers import StableDiffusionPipeline

PROMPT = "a small red star left of a blue square"
STEPS = 12
SEED = 7
WORDS = PROMPT.split()


def tokenizer_files(folder: Path) -> None:
    """A CLIP vocabulary of single letters and the prompt's words: enough to read the prompt."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    merges: list[str] = []
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    for word in dict.fromkeys(WORDS):
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            pair, parts = f"{parts[0]} {parts[1]}", [parts[0] + parts[1], *parts[2:]]
            if pair not in merges:
                merges.append(pair)
                tokens.append(pair.replace(" ", ""))
    tokens = list(dict.fromkeys([*tokens, "<|startoftext|>", "<|endoftext|>"]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))


def build_base(folder: Path) -> None:
    """A StableDiffusionPipeline with every kind of module the real one has, saved in diffusers layout."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(SEED)
    tokenizer_files(folder / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", model_max_length=77)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8, cross_attention_dim=64,
        attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 32), layers_per_block=1, norm_num_groups=8, latent_channels=4, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    )  # fmt: skip
    StableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(text), tokenizer=tokenizer, unet=unet, scheduler=DDIMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip


def write_kohya_lora(base: Path, file: Path, rank: int = 4) -> int:
    """A LoRA for every attention projection of the base, under the names and alphas of kohya's trainer."""
    import torch
    from diffusers import UNet2DConditionModel
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(SEED)
    tensors: dict[str, torch.Tensor] = {}
    unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet")
    targets = [name for name, module in unet.named_modules() if name.endswith(("to_q", "to_k", "to_v", "to_out.0"))]
    for name in targets:
        weight = unet.get_submodule(name).weight
        stem = "lora_unet_" + name.replace(".", "_")
        down = torch.randn(rank, weight.shape[1], generator=generator) / weight.shape[1] ** 0.5
        up = torch.randn(weight.shape[0], rank, generator=generator)
        tensors |= {f"{stem}.lora_down.weight": down.half(), f"{stem}.lora_up.weight": up.half()}
        tensors[f"{stem}.alpha"] = torch.tensor(float(rank))
    save_file(tensors, file, metadata={"ss_network_module": "networks.lora", "ss_output_name": "demo"})
    return len(targets)


def draw(pipe: StableDiffusionPipeline) -> np.ndarray[Any, Any]:
    """One picture of the prompt, float32 [height, width, 3] in 0..1, always from the same noise."""
    import torch

    generator = torch.Generator().manual_seed(SEED)
    return pipe(PROMPT, num_inference_steps=STEPS, generator=generator, output_type="np").images[0]  # type: ignore[no-any-return]


def picture(panels: dict[str, np.ndarray[Any, Any]], file: Path) -> None:
    """The panels side by side with their titles, written as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(3 * len(panels), 3.4))
    for axis, (title, panel) in zip(axes, panels.items(), strict=True):
        axis.imshow(panel.clip(0, 1), interpolation="nearest")
        axis.set_title(title)
        axis.axis("off")
    figure.suptitle(f"“{PROMPT}”, seed {SEED}", fontsize=9)
    figure.tight_layout()
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the results (replaced)")
    out: Path = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}
    os.environ.update({"HF_HUB_OFFLINE": "1", **quiet})

    print("1. a base model from a seed, and a kohya LoRA for it")
    build_base(out / "base")
    modules = write_kohya_lora(out / "base", out / "lora.safetensors")
    print(f"   {out / 'lora.safetensors'}: {modules} modules")

    command = ["si-hub", "convert", str(out / "lora.safetensors"), "--base", str(out / "base")]
    print(f"2. {' '.join(command)}", flush=True)
    subprocess.run([sys.executable, "-m", "si_hub.cli", *command[1:]], check=True)

    print('3. pipe.load_styleinject_weights("lora.styleinject.safetensors")')
    import torch
    from diffusers import StableDiffusionPipeline

    import si_hub

    torch.set_num_threads(1)
    si_hub.enable()
    pipe: Any = StableDiffusionPipeline.from_pretrained(out / "base", safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    base = draw(pipe)
    pipe.load_lora_weights(out / "lora.safetensors")
    peer = draw(pipe)
    pipe.unload_lora_weights()
    print("  ", str(pipe.load_styleinject_weights(out / "lora.styleinject.safetensors")).replace("\n", "\n   "))
    ours = draw(pipe)
    pipe.unload_styleinject_weights()
    again = draw(pipe)

    picture(
        {"base": base, "with the adapter": ours, "difference × 4": abs(ours - base) * 4},
        out / "demo.png",
    )
    print(f"4. mean change of the picture            {abs(ours - base).mean():.4f}  (0 would be: nothing happened)")
    print(f"   distance to diffusers' load_lora_weights {abs(ours - peer).max():.1e}  (largest over all pixels)")
    print(f"   distance to the base after unloading  {abs(again - base).max():.1e}")
    print(f"   picture: {out / 'demo.png'}")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=FutureWarning)
    main()
