"""The snippets of a page of docs/, and a folder in which a reader would run them.

Commands are called in this process, and so is Python: importing torch once is most of what a short command costs.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from safetensors.numpy import save_file

import si_hub
from si_hub.cli import main
from tests.commands import write_kohya
from tests.miniature import BASE, KOHYA_LORA, MINIATURE, tune_attentions
from tests.places import ROOT

DOCS = ROOT / "docs"
_BLOCK = re.compile(r"^( *)```(sh|python)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
#: How a command begins that is not run here → where it is.
ELSEWHERE = {
    "pip install": "tests/wheel.sh, `make matrix`",
    "make ": "`make test` and .ci/run run the targets",
    "python -m benchmarks.": "they measure what the pages tell, by hand",
    "accelerate launch": "tests/distill/running, tests/training: two processes make the same bytes",
    "si-hub merge a.safetensors:0.2": "tests/editing/test_compiling.py, of fewer states than it has options for",
    "python -m si_hub": "tests/test_cli.py, in a process of its own",
}
#: How a command begins → what is added, so that it does all it says, of few steps, on few states.
FEWER = {
    "si-hub train": "--steps 2 --set measured=2",
    "si-hub distill": "--set trajectories=2 --set states=2 --set sampling_steps=2 --set held_out=2 --set pieces=2",
}


@dataclass(frozen=True)
class Snippet:
    """A fenced block: its language, and its text without the indentation of what it stands in."""

    language: str
    text: str

    def commands(self) -> list[str]:
        """The lines of a shell's block, continued ones joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def snippets(page: Path) -> list[Snippet]:
    """What a page has of shell and Python, top to bottom."""
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Snippet(language, re.sub(f"^{indent}", "", text, flags=re.MULTILINE)) for indent, language, text in found]


def shorten(command: str) -> str:
    """The command with `FEWER` in place of how many it says itself."""
    for start, more in FEWER.items():
        if command.startswith(start):
            command = re.sub(r" --steps \d+", "", re.sub(r" +#.*$", "", command))
            if "--report " in command and "distill" in start:
                more += " --pictures 1"
            if "--method trained" in command:
                more += " --steps 2 --set samples=2 --set walks=2"
            return f"{command} {more}"
    return command


def run_command(line: str) -> None:
    """Run a command of ours as a shell would call it; anything but success fails the test."""
    [program, *arguments] = shlex.split(shorten(line), comments=True)
    assert program == "si-hub", f"{line}: no command of ours, and not named in ELSEWHERE"
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, f"{line}: {done.output}{done.exception!r}"


def run_all(page: Path) -> int:
    """Run the snippets of a page, where one stands; how many commands and blocks of Python these were."""
    known: dict[str, object] = {"__name__": "__main__"}
    count = 0
    for snippet in snippets(page):
        if snippet.language == "python":
            exec(compile(snippet.text, page.name, "exec"), known)
            count += 1
            continue
        for line in snippet.commands():
            if not line.startswith(tuple(ELSEWHERE)):
                run_command(line)
                count += 1
    return count


# What the pages take for granted.


def write_pair(file: Path, names: dict[str, tuple[int, int]], down: str, up: str, rank: int = 4) -> Path:
    """A LoRA of some modules, under the names of a program."""
    random = np.random.default_rng(7)
    tensors = {}
    for name, (out, wide) in names.items():
        tensors[name + down] = random.standard_normal((rank, wide)).astype(np.float16)
        tensors[name + up] = random.standard_normal((out, rank)).astype(np.float16)
    save_file(tensors, file)
    return file


def write_lokr(file: Path, stem: str, out: int, wide: int) -> Path:
    """A LoKr of one module: 8 by 8 times a pair of rank 2."""
    random = np.random.default_rng(8)
    shapes = {"lokr_w1": (8, 8), "lokr_w2_a": (out // 8, 2), "lokr_w2_b": (2, wide // 8)}
    tensors = {f"{stem}.{leaf}": random.standard_normal(shape).astype(np.float16) for leaf, shape in shapes.items()}
    save_file(tensors | {f"{stem}.alpha": np.array(2, np.float16)}, file)
    return file


def write_styles(*names: str) -> None:
    """Adapters of the miniature, by turns of two LoRAs of it."""
    for place, name in enumerate(names):
        source = MINIATURE / "peers" / ("kohya_lora.safetensors", "peft_lora.safetensors")[place % 2]
        si_hub.convert(source, f"{name}.safetensors", base=BASE)


def lay_common(folder: Path) -> None:
    shutil.copytree(BASE, folder / "base")
    (folder / "examples").mkdir()
    shutil.copytree(MINIATURE / "base", folder / "examples" / "miniature" / "base")
    shutil.copy(MINIATURE / "prompts.txt", folder / "examples" / "miniature")
    shutil.copy(KOHYA_LORA, folder / "lora.safetensors")
    shutil.copy(MINIATURE / "peers" / "lycoris_dora.safetensors", folder)


def lay_load(folder: Path) -> None:
    write_styles("ink", "neon")
    si_hub.merge(["ink.safetensors", "neon.safetensors"], "styles.safetensors", branches=True, base=BASE)


def lay_serve(folder: Path) -> None:
    for style in ("ink", "neon"):
        shutil.copy(folder / "lora.safetensors", folder / f"{style}.safetensors")


def lay_edit(folder: Path) -> None:
    from PIL import Image

    write_styles("style", "a", "b", "c")
    block = "transformer_blocks_0_attn1_to_q"
    names = {
        f"lora_unet_down_blocks_0_attentions_0_{block}": (320, 320),
        f"lora_unet_mid_block_attentions_0_{block}": (1280, 1280),
        "lora_te_text_model_encoder_layers_0_mlp_fc1": (3072, 768),
    }
    for style in ("ink", "neon"):
        source = write_pair(folder / "source.safetensors", names, ".lora_down.weight", ".lora_up.weight")
        si_hub.convert(source, f"{style}.safetensors", base="sd15")
    Image.new("RGB", (64, 64), "navy").save(folder / "cover.jpg")
    stem = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    write_lokr(folder / "lokr.safetensors", stem, 640, 640)
    write_pair(folder / "lora.safetensors", {stem: (640, 640)}, ".lora_down.weight", ".lora_up.weight")


def lay_export(folder: Path) -> None:
    si_hub.convert(write_kohya(folder / "style.safetensors"))
    unet = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    write_pair(folder / "lora_diffusers.safetensors", {unet: (320, 768)}, ".lora_A.weight", ".lora_B.weight")
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    write_lokr(folder / "lokr.safetensors", stem, 320, 768)
    for name in ("ink", "neon"):
        write_pair(folder / f"{name}.safetensors", {stem: (320, 768)}, ".lora_down.weight", ".lora_up.weight")
    si_hub.merge(["ink.safetensors", "neon.safetensors"], "mix.styleinject.safetensors", branches=True, base="sd15")


def lay_train(folder: Path) -> None:
    from tests.training.drawn import write_pictures

    write_pictures(folder / "pictures")


def lay_distill(folder: Path) -> None:
    from safetensors.torch import load_file
    from safetensors.torch import save_file as save

    for style, file in {"ink": "ink", "neon": "neon", "clay": "community"}.items():
        tuned = tune_attentions(folder / "tuned", style)
        [unet] = (tuned / "unet").glob("*.safetensors")
        save(load_file(unet), folder / f"{file}.safetensors")
    (folder / "examples" / "miniature" / "checkpoints").mkdir()
    shutil.copy(folder / "ink.safetensors", folder / "examples" / "miniature" / "checkpoints")
    (folder / "docs").mkdir()


def lay_share(folder: Path) -> None:
    si_hub.convert(KOHYA_LORA, "neon.safetensors", base=folder / "base")


#: A page → what lies in its reader's folder besides the base model and two LoRAs of it.
LAID: dict[str, Callable[[Path], None]] = {
    "LOAD": lay_load, "SERVE": lay_serve, "PIPELINES": lay_load, "EDIT": lay_edit, "EXPORT": lay_export,
    "TRAIN": lay_train, "DISTILL": lay_distill, "SHARE": lay_share,
}  # fmt: skip
