"""Builds the miniature from seeds: every step is skipped where its result is there, and taken up where it stopped.

``python -m examples.miniature.world`` builds into ``build/miniature/world``; ``--ship`` then puts the result beside
this file, with the manifest. ``accelerate launch -m examples.miniature.world`` uses every device there is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from diffusers import AutoencoderKL, FluxPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from .autoencoder import train_decoder, train_vae
from .base import train_base
from .checkpoints import HERE, fold, fold_transformer, fold_xl
from .data import plain_scenes
from .families import STYLE, train_dit, train_sdxl, tune_dit, tune_sdxl
from .judges import train_judges
from .peers import PEERS, train_peer
from .progress import hush
from .styles import ALL, TAUGHT, fine_tune
from .text import load_tokenizer, train_text_encoder, write_vocabulary

SHIPPED = ("base", "checkpoints", "peers", "sdxl", "dit", "judges.safetensors")
XL_STYLE, DIT_STYLE = (f"checkpoints/{family}_{STYLE}.safetensors" for family in ("sdxl", "dit"))
COMMAND = "python -m examples.miniature.world --only {step}"
LIMIT = 60_000_000  # bytes of all shipped weights


def halve(folder: Path) -> None:
    """Rewrites every safetensors file under a folder in fp16; configs keep saying float32, so it loads as that."""
    for file in sorted(folder.rglob("*.safetensors")):
        save_file({name: value.half() for name, value in load_file(file).items()}, file, metadata={"format": "pt"})


def tidy(folder: Path) -> None:
    """Takes the builder's own paths out of a pipeline's configs, and gives CLIP tokenizers their older files, too."""
    for file in folder.rglob("config.json"):
        config = json.loads(file.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for file in folder.rglob("tokenizer_config.json"):
        if json.loads(file.read_text(encoding="utf-8"))["tokenizer_class"] == "CLIPTokenizer":
            write_vocabulary(file.parent)


def save_folder(pipe: Any, folder: Path) -> None:
    """A pipeline in diffusers layout, fp16; whole or not at all."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    pipe.save_pretrained(part)
    halve(part)
    tidy(part)
    part.replace(folder)


def load_base(out: Path) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(out / "base", safety_checker=None)


Save = Callable[[], None]
Step = Callable[[Path, Path], Save]


def make_judges(out: Path, work: Path) -> Save:
    tensors = {name: value.half() for name, value in train_judges(work).state_dict().items()}
    return partial(save_file, tensors, out / "judges.safetensors", metadata={"format": "pt"})


def make_vae(out: Path, work: Path) -> Save:
    return partial(train_vae(work).save_pretrained, work / "vae")


def make_decoder(out: Path, work: Path) -> Save:
    vae = AutoencoderKL.from_pretrained(work / "vae")
    return partial(train_decoder(vae, work).save_pretrained, work / "decoder")


def make_text(out: Path, work: Path) -> Save:
    tokenizer = load_tokenizer(work / "tokenizer")
    return partial(train_text_encoder(tokenizer, plain_scenes(), work).save_pretrained, work / "text_encoder")


def make_base(out: Path, work: Path) -> Save:
    vae = AutoencoderKL.from_pretrained(work / "vae")
    text_encoder = CLIPTextModel.from_pretrained(work / "text_encoder")
    tokenizer = load_tokenizer(work / "tokenizer")
    pipe = train_base(vae, text_encoder, tokenizer, work)
    pipe.vae = AutoencoderKL.from_pretrained(work / "decoder")
    return partial(save_folder, pipe, out / "base")


def make_checkpoint(name: str, out: Path, work: Path) -> Save:
    pipe = load_base(out)
    fine_tune(pipe, name, work)
    return partial(fold, pipe, out / "checkpoints" / f"{name}.safetensors", f"miniature {name.replace('_', ' ')}")


def make_peer(name: str, out: Path, work: Path) -> Save:
    return train_peer(load_base(out), name, out / "peers" / f"{name}.safetensors", work)


def make_sdxl(out: Path, work: Path) -> Save:
    return partial(save_folder, train_sdxl(AutoencoderKL.from_pretrained(work / "decoder"), work), out / "sdxl")


def make_dit(out: Path, work: Path) -> Save:
    return partial(save_folder, train_dit(AutoencoderKL.from_pretrained(work / "decoder"), work), out / "dit")


def make_sdxl_style(out: Path, work: Path) -> Save:
    pipe = StableDiffusionXLPipeline.from_pretrained(out / "sdxl", add_watermarker=False)
    tune_sdxl(pipe, work)
    return partial(fold_xl, pipe, out / XL_STYLE, f"miniature SDXL {STYLE}")


def make_dit_style(out: Path, work: Path) -> Save:
    pipe = FluxPipeline.from_pretrained(out / "dit")
    tune_dit(pipe, work)
    return partial(fold_transformer, pipe, out / DIT_STYLE, f"miniature DiT {STYLE}")


# Name → what trains it and says how it is saved, and where its result lies: below ``work`` for what only later steps
# need, else below ``out``.
STEPS: dict[str, tuple[Step, str]] = {
    "judges": (make_judges, "judges.safetensors"),
    "vae": (make_vae, "work/vae"),
    "decoder": (make_decoder, "work/decoder"),
    "text": (make_text, "work/text_encoder"),
    "base": (make_base, "base"),
    **{name: (partial(make_checkpoint, name), f"checkpoints/{name}.safetensors") for name in (*TAUGHT, ALL)},
    **{name: (partial(make_peer, name), f"peers/{name}.safetensors") for name in PEERS},
    "sdxl": (make_sdxl, "sdxl"),
    "dit": (make_dit, "dit"),
    f"sdxl_{STYLE}": (make_sdxl_style, XL_STYLE),
    f"dit_{STYLE}": (make_dit_style, DIT_STYLE),
}


def result_of(step: str, out: Path, work: Path) -> Path:
    place = STEPS[step][1]
    return work / place.removeprefix("work/") if place.startswith("work/") else out / place


def step_of(file: Path, out: Path) -> str:
    """The step that made a shipped file."""
    path = file.relative_to(out).as_posix()
    return next(step for step, (_, place) in STEPS.items() if path == place or path.startswith(f"{place}/"))


def write_manifest(out: Path) -> None:
    """``manifest.json``: size, sha256 and command of every shipped weight file.

    Raises:
        ValueError: together they are larger than `LIMIT`.
    """
    files = sorted(file for name in SHIPPED for file in _weights(out / name))
    entries = {
        file.relative_to(out).as_posix(): {
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "command": COMMAND.format(step=step_of(file, out)),
        }
        for file in files
    }
    total = sum(file.stat().st_size for file in files)
    if total > LIMIT:
        raise ValueError(f"{out}: the weights are {total} bytes together, more than {LIMIT}")
    (out / "manifest.json").write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def _weights(place: Path) -> list[Path]:
    return [place] if place.is_file() else list(place.rglob("*.safetensors"))


def ship(out: Path) -> None:
    """Puts beside this file what was built so far, with a manifest of all that is there."""
    for name in SHIPPED:
        if (out / name).is_dir():
            shutil.rmtree(HERE / name, ignore_errors=True)
            shutil.copytree(out / name, HERE / name)
        elif (out / name).exists():
            shutil.copyfile(out / name, HERE / name)
    write_manifest(HERE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(STEPS), default=list(STEPS), help="steps to do")
    parser.add_argument("--work", type=Path, default=Path("build/miniature"), help="pictures, latents, training states")
    parser.add_argument("--out", type=Path, help="where the world is built  [default: WORK/world]")
    parser.add_argument("--ship", action="store_true", help="put the built world beside this module")
    parser.add_argument("--threads", type=int, default=1, help="threads of one process on the CPU")
    arguments = parser.parse_args()
    work: Path = arguments.work
    out: Path = arguments.out or work / "world"
    out.mkdir(parents=True, exist_ok=True)
    hush()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", category=FutureWarning)
    machine = PartialState()
    for step in arguments.only:
        if not result_of(step, out, work).exists():
            save = STEPS[step][0](out, work)
            if machine.is_main_process:
                save()
        machine.wait_for_everyone()
    if arguments.ship and machine.is_main_process:
        ship(out)


if __name__ == "__main__":
    main()
