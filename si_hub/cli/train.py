"""`si-hub train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from si_hub.cli.group import main
from si_hub.cli.options import GivenModel, GivenPath, as_json
from si_hub.cli.printing import complain, show


def as_words(_: click.Context, __: click.Parameter, text: str | None) -> tuple[str, ...]:
    """``ink style, by anna`` as words between commas."""
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


@main.command("train")
@click.argument("base", type=GivenModel())
@click.argument("pictures", type=GivenPath(), required=False)
@click.option("-o", "--output", type=GivenPath(), help="File or folder to write.  [default: beside PICTURES]")
@click.option("--styles", type=GivenPath(), multiple=True, metavar="FOLDER", help="A folder for each named style.")
@click.option("--caption", metavar="TEXT", help="Of pictures that have no caption of their own.")
@click.option("--validation", type=GivenPath(), metavar="FOLDER", help="Pictures to measure with, never learned from.")
@click.option("--rank", type=int, help="Of every layer.  [default: 8]")
@click.option("--branches", type=int, metavar="N", help="Down matrices of every layer.  [default: 1]")
@click.option("--router", metavar="KIND", help="Of several branches: fixed or learned.  [default: learned]")
@click.option("--transform", metavar="NAME", help="add, variance, restyle or adain.  [default: add]")
@click.option("--layers", metavar="KIND", help="attention, linear or all, with convolutions.  [default: linear]")
@click.option("--text-encoder", is_flag=True, default=None, help="Train the text encoders too.")
@click.option("--steps", type=int, help="[default: 500]")
@click.option("--batch", type=int, help="Pictures a step, on all devices together.  [default: 8]")
@click.option("--part", type=int, help="Pictures computed at once; the rest is added up.  [default: 8]")
@click.option("--rate", type=float, help="Learning rate, in units of each tensor's own size.  [default: 0.1]")
@click.option("--average", type=float, metavar="DECAY", help="Of the moving average that is kept (EMA).")
@click.option("--dropout", type=float, metavar="SHARE", help="Of pictures shown without caption.  [default: 0.1]")
@click.option("--min-snr", type=float, metavar="GAMMA", help="Min-SNR weighting, such as 5.")
@click.option("--noise-offset", type=float, metavar="X", help="Such as 0.05.")
@click.option("--resolution", type=int, metavar="PIXELS", help="Side of the pictures.  [default: the pipeline's]")
@click.option("--precision", metavar="NAME", help="Arithmetic: no, fp16 or bf16.  [default: no]")
@click.option("--checkpointing", is_flag=True, default=None, help="Less memory, more time.")
@click.option("--save-every", type=int, metavar="STEPS", help="Steps between two checkpoints.  [default: 100]")
@click.option("--dtype", default="fp32", show_default=True, help="Numbers of the adapter: fp32, fp16 or bf16.")
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1, xpu or mps.  [default: the machine's best]")
@click.option("--work", type=GivenPath(), help="Folder for unfinished work, to go on from after an interruption.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything random.")
@click.option("--title", metavar="TEXT")
@click.option("--author", metavar="NAME")
@click.option("--license", metavar="ID", help="Such as cc-by-4.0.")
@click.option("--trigger-words", callback=as_words, metavar="WORDS", help="Between commas.")
@click.option("-f", "--force", is_flag=True, help="Overwrite the output file.")
@as_json
def train_command(base: str, pictures: Path | None, json_: bool, **options: Any) -> None:
    """Train an adapter of the model BASE from the folder PICTURES.

    Captions are x.txt beside x.png, rows of metadata.jsonl or metadata.csv, or one --caption for all. Interrupted, the
    same command goes on where it was; under `accelerate launch -m si_hub.cli train …` the devices share every step.

    \b
    Examples:
      si-hub train base/ pictures/
      si-hub train base/ pictures/ -o my_style.safetensors --caption "in my style" --trigger-words "my style"
      si-hub train base/ --styles ink/ --styles neon/ -o both.safetensors    named styles, mixed at run time
      si-hub train base/ pictures/ --rank 16 --steps 2000 --precision bf16 --validation held-out/
    """
    from si_hub.distill.work.processes import is_main
    from si_hub.report.progress import progress_bar
    from si_hub.training.command import train

    try:
        with progress_bar("training", quiet=json_ or not is_main(), share=True) as progress:
            result = train(base, pictures, progress=progress, **options)
    except KeyboardInterrupt:
        if is_main():
            complain("what is learned is kept; the same command goes on from there")
        raise
    if is_main():
        show(result, json_)
