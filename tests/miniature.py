"""The miniature of ``examples/miniature`` as tests use it: where its files lie, and what many tests begin with."""

from __future__ import annotations

import shutil
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.places import ROOT

if TYPE_CHECKING:
    from si_hub.distill import Pair

MINIATURE = ROOT / "examples" / "miniature"
BASE, PROMPTS = MINIATURE / "base", MINIATURE / "prompts.txt"
TOKENIZER = BASE / "tokenizer"
CHECKPOINTS = MINIATURE / "checkpoints"
#: A LoRA of the miniature as kohya's trainer writes it.
KOHYA_LORA = MINIATURE / "peers" / "kohya_lora.safetensors"


def checkpoint(style: str) -> Path:
    """The miniature tuned to a style, as a single file."""
    return CHECKPOINTS / f"{style}.safetensors"


INK, NEON = checkpoint("ink"), checkpoint("neon")


def copy_base(folder: Path) -> Path:
    """A copy of the base of the test's own, to spoil."""
    return Path(shutil.copytree(BASE, folder))


def tune_attentions(folder: Path, style: str) -> Path:
    """A copy of the base tuned to a style in its attentions, its first layer and its last norm, in ``folder / style``.

    For tests of what happens to layers, not of how well: no other layer has large moments, and a run takes a second.
    """
    from safetensors.torch import save_file

    from si_hub.distill import open_model

    base = open_model(BASE)
    tuned = open_model(checkpoint(style), base=base).components["unet"]
    copy_base(folder / style)
    [file] = (folder / style / "unet").glob("*.safetensors")
    few = ("conv_in.", "conv_norm_out.")
    tensors = {
        name: (tuned[name] if ".attentions." in name or name.startswith(few) else weight).torch().float().contiguous()
        for name, weight in base.components["unet"].items()
    }
    save_file(tensors, file, metadata={"format": "pt"})
    return folder / style


def write_prompts(folder: Path, count: int = 12) -> Path:
    """A file of few prompts, the same ones each time."""
    from examples.miniature.scenes import scenes

    file = folder / "prompts.txt"
    file.write_text("\n".join(scene.prompt() for scene in islice(scenes(31), count)), encoding="utf-8")
    return file


def open_pair(tuned: Path, base: Path = BASE, **options: Any) -> Pair:
    """A base and a model tuned from it, matched and unread."""
    from si_hub.distill import match, open_model

    opened = open_model(base)
    return match(opened, open_model(tuned, base=opened), **options)


def join_styles(folder: Path) -> Path:
    """Two LoRAs of the miniature as named styles of one adapter, ``kohya_lora`` and ``peft_lora``."""
    import si_hub

    files = [KOHYA_LORA, KOHYA_LORA.with_name("peft_lora.safetensors")]
    return si_hub.merge(files, folder / "styles.safetensors", branches=True, base=BASE).path
