"""Base and tuned models of full size on disk: random weights of every shape, float16, and a low-rank difference."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler

from examples.miniature.checkpoints import vae_key
from si_hub import architectures
from si_hub.architectures.bases import BY_NAME
from si_hub.architectures.layouts.unet import sgm
from si_hub.distill.running.assembling import empty_model
from si_hub.distill.running.releases import RELEASES
from si_hub.distill.running.vocabulary import clip_tokenizer
from si_hub.storage.tensors import Tensor
from si_hub.storage.write import header_bytes
from tests.distill.checkpoints import open_clip, original, prefixed, shapes_of
from tests.distill.families import t5

Shapes = Mapping[str, tuple[int, ...]]
#: Where the text encoders of a size are, as their projects name them.
ENCODERS = {
    "sd15": {"text_encoder": "cond_stage_model.transformer."},
    "sdxl": {
        "text_encoder": "conditioner.embedders.0.transformer.", "text_encoder_2": "conditioner.embedders.1.model.",
    },
}  # fmt: skip
#: Fewer blocks than Flux.1 has, each of them whole: of its 19 and 38, and of the 24 of its T5.
FLUX_BLOCKS = {"transformer": {"num_layers": 2, "num_single_layers": 3}, "text_encoder_2": {"num_layers": 2}}
TOKENS = 64
#: Flux's autoencoder, which is SDXL's but for these.
FLUX_VAE = {
    "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False, "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
}  # fmt: skip
SIZES = (*ENCODERS, "flux")
#: Rank of the difference, and its size relative to the weight's.
DIRECTIONS, STRENGTH = 8, 0.1
#: Random numbers that weights are cut from.
POOL = 1 << 22


def write_pair(folder: Path, size: str) -> tuple[Path, Path]:
    """Base and tuned model, one tensor in memory at a time: single files, or folders of Flux."""
    if size == "flux":
        return _write_flux(folder / "base", folder / "tuned")
    files = folder / "base.safetensors", folder / "tuned.safetensors"
    _write(files, shapes_in_file(size), untouched="first_stage")
    return files


def shapes_in_file(size: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint under the names of the original project."""
    known = architectures.load(size).components
    held: dict[str, Any] = dict(original(sgm(known["unet"]), dict(shapes_of(known["unet"])), "model.diffusion_model."))
    for component, place in ENCODERS[size].items():
        encoder: dict[str, Any] = dict(shapes_of(known[component]))
        held.update(open_clip(encoder, place) if place.endswith(".model.") else prefixed(encoder, place))
    with torch.device("meta"):
        vae = AutoencoderKL(**RELEASES[size].models["vae"].config)
    for name, value in vae.state_dict().items():
        held[f"first_stage_model.{vae_key(name, 4)}"] = tuple(value.shape)
    return held


def _write_flux(folder: Path, tuned: Path) -> tuple[Path, Path]:
    """Two pipelines' folders, whose transformers differ; the other files are the same ones.

    The tokenizer of their T5 knows eight letters, and gives `TOKENS` of them.
    """
    parts = dict(BY_NAME["flux"].components)
    made: dict[str, Any] = {
        name: empty_model(part.library, part.class_name, {**part.config, **FLUX_BLOCKS.get(name, {})})
        for name, part in parts.items()
    }
    made["vae"] = empty_model("diffusers", "AutoencoderKL", {**RELEASES["sdxl"].models["vae"].config, **FLUX_VAE})
    index: dict[str, Any] = {"_class_name": "FluxPipeline"}
    (tuned / "transformer").mkdir(parents=True)
    for name, model in made.items():
        diffusers = hasattr(model, "save_config")
        index[name] = ["diffusers" if diffusers else "transformers", type(model).__name__]
        (model.save_config if diffusers else model.config.save_pretrained)(folder / name)
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        # The second name of its first embedding, which files do not have.
        shapes.pop("encoder.embed_tokens.weight", None)
        _write([_file(place, name) for place in ((folder, tuned) if name == "transformer" else (folder,))], shapes)
    letters = t5()[1]
    letters.model_max_length = TOKENS
    for name, other in (("tokenizer", clip_tokenizer("<|endoftext|>")), ("tokenizer_2", letters)):
        other.save_pretrained(folder / name)
        index[name] = ["transformers", type(other).__name__]
    FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True).save_pretrained(folder / "scheduler")
    index["scheduler"] = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    for file in [one for one in sorted(folder.rglob("*")) if one.is_file()]:
        target = tuned / file.relative_to(folder)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, target)
    return folder, tuned


def _file(folder: Path, component: str) -> Path:
    name = "model" if component.startswith("text_encoder") else "diffusion_pytorch_model"
    return folder / component / f"{name}.safetensors"


def _write(files: Sequence[Path], shapes: Shapes, untouched: str | None = None) -> None:
    """The base's weights into the first file, the tuned model's into the second, if there is one."""

    class Promised:
        def __init__(self, length: int) -> None:
            self.length = length

    promised: dict[str, Any] = {
        name: Tensor("F16", shape, (Promised(2 * math.prod(shape)),))  # type: ignore[arg-type]
        for name, shape in shapes.items()
    }
    pool = torch.randn(POOL, generator=torch.Generator().manual_seed(0))
    streams = [file.open("wb") for file in files]
    for stream in streams:
        stream.write(header_bytes(promised, {}))
    for place, (name, shape) in enumerate(shapes.items()):
        sides = _draw(name, shape, pool.roll(7919 * place), untouched)
        for stream, values in zip(streams, sides[: len(streams)], strict=True):
            values.contiguous().numpy().tofile(stream)
    for stream in streams:
        stream.close()


def _draw(
    name: str, shape: tuple[int, ...], pool: torch.Tensor, untouched: str | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight of both models; a network of them computes numbers of a size that float16 can hold."""
    count = math.prod(shape)
    if len(shape) < 2:
        values = 0.01 * pool[:count] + float(name.endswith(".weight"))
        return values.half(), (values + 0.01 * pool[1 : count + 1]).half()
    rows, columns = shape[0], count // shape[0]
    base = pool.repeat(-(-count // POOL))[:count].reshape(rows, columns) * columns**-0.5
    tuned = base.clone()
    if untouched is None or not name.startswith(untouched):
        left, right = pool[: rows * DIRECTIONS].reshape(rows, -1), pool[-columns * DIRECTIONS :].reshape(-1, columns)
        tuned.addmm_(left, right, alpha=STRENGTH * (columns * DIRECTIONS) ** -0.5)
    return base.half().reshape(shape), tuned.half().reshape(shape)
