"""`si-hub train`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from si_hub.cli.group import main
from si_hub.cli.options import GivenModel, GivenOutput, GivenPath, as_json, as_table, as_words
from si_hub.cli.printing import complain, show
from si_hub.errors import UsageError

ANY_SETTING = "Any other setting, such as clip=0.5; docs/TRAIN.md lists them."


@main.command("train")
@click.argument("base", type=GivenModel())
@click.argument("pictures", type=GivenPath(), required=False)
@click.option("-o", "--output", type=GivenOutput(), help="File to write, or a folder to share, which ends in a slash.")
@click.option("--method", metavar="NAME", help="styleinject, lora or dora.  [default: styleinject]")
@click.option("--styles", type=GivenPath(), multiple=True, help="A folder for each named branch, instead of PICTURES.")
@click.option("--caption", metavar="TEXT", help="What pictures without a caption of their own show.")
@click.option("--trigger", metavar="WORD", help="A word that every caption gets, and that calls the style.")
@click.option("--rank", type=int, help="As many numbers as this rank takes on linear layers.  [default: 8]")
@click.option("--ranks", metavar="HOW", help="fitted: where the pictures pull; or even.  [default: fitted]")
@click.option("--alpha", type=float, help="Scale times rank.  [default: the rank, a scale of one]")
@click.option("--branches", type=int, help="Parallel branches without names.  [default: 1]")
@click.option("--transform", metavar="NAME", help="add, variance, restyle or adain.  [default: add]")
@click.option("--router", metavar="KIND", help="learned or fixed.  [default: learned; with --styles fixed]")
@click.option("--layers", metavar="WORD", help="attention, linear or all (convolutions too).  [default: all]")
@click.option("--targets", metavar="NAMES", help="Ends of modules' paths instead, such as to_q,to_v.")
@click.option("--text-encoder", is_flag=True, default=None, help="Train CLIP text encoders too.")
@click.option("--steps", type=int, help="Optimiser steps.  [default: 50 passes, 100 to 500]")
@click.option("--batch", type=int, help="Pictures in each step, on all processes together.  [default: 8]")
@click.option("--part", type=int, help="Pictures at once; gradients of several parts are added up.  [default: 8]")
@click.option("--rate", type=float, help="Learning rate.  [default: by the layers' width]")
@click.option("--optimizer", metavar="NAME", help="adamw, adamw8bit or schedulefree.  [default: adamw]")
@click.option("--average", type=float, metavar="DECAY", help="Of the moving average that is kept (EMA); 0: none.")
@click.option("--resolution", type=int, metavar="PIXELS", help="Side of a square picture.")
@click.option("--square", is_flag=True, help="Cut every picture square instead of keeping its shape.")
@click.option("--min-snr", type=float, metavar="GAMMA", help="Weigh timesteps by min-SNR, such as 5.")
@click.option("--noise-offset", type=float, help="Noise that is equal all over a picture, such as 0.05.")
@click.option("--preserve", type=int, metavar="N", help="Pictures of the base itself that are to stay as they are.")
@click.option("--validation", type=GivenPath(), metavar="FOLDER", help="Unseen pictures, which choose the best step.")
@click.option("--prompts", type=GivenPath(), help="Prompts to draw, one a line.  [default: captions]")
@click.option("--every", type=int, metavar="N", help="Draw them every N steps, side by side in OUTPUT-drawn.png.")
@click.option("--report", type=GivenPath(), multiple=True, metavar="FILE", help="Report to write, .html or .png.")
@click.option("--tracker", "trackers", multiple=True, metavar="NAME", help="tensorboard or wandb, by accelerate.")
@click.option("--precision", metavar="NAME", help="Arithmetic: no, fp16 or bf16.  [default: no]")
@click.option("--checkpointing", is_flag=True, default=None, help="Compute activations twice, to save memory.")
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1, xpu or mps.  [default: the machine's best]")
@click.option("--seed", type=int, help="Of everything random.  [default: 0]")
@click.option("--save-every", type=int, metavar="STEPS", help="Steps between two checkpoints.  [default: 50]")
@click.option("--dropout", type=float, metavar="SHARE", help="Of pictures shown without caption.  [default: 0.1]")
@click.option("--dtype", metavar="NAME", help="Numbers of the adapter: fp32, fp16 or bf16.  [default: fp32]")
@click.option("--title", metavar="TEXT", help="Kept in the file.")
@click.option("--author", metavar="NAME", help="Kept in the file.")
@click.option("--license", metavar="ID", help="Kept in the file, such as cc-by-4.0.")
@click.option("--trigger-words", callback=as_words, metavar="WORDS", help="Kept in the file, between commas.")
@click.option("--work", type=GivenPath(), help="Folder for unfinished work, to go on from after an interruption.")
@click.option("--set", "more", callback=as_table, multiple=True, metavar="NAME=VALUE", help=ANY_SETTING)
@click.option("--dry-run", is_flag=True, help="Check everything and say what would be trained; write nothing.")
@click.option("-f", "--force", is_flag=True, help="Overwrite the output and report files.")
@as_json
def train_command(
    base: str,
    pictures: Any,
    square: bool,
    trackers: tuple[str, ...],
    more: dict[str, Any],
    dry_run: bool,
    json_: bool,
    **options: Any,
) -> None:
    """Train one small adapter on a folder of PICTURES with captions.

    BASE is a diffusers folder or a repository id in the local cache. Captions are x.txt beside x.png, a metadata.jsonl
    or metadata.csv, or one for all with --caption. Interrupted, the same command goes on where it was; under
    `accelerate launch` the processes share the work.

    \b
    Examples:
      si-hub train base/ pictures/ -o my_style.safetensors
      si-hub train base/ pictures/ --caption "a drawing" --trigger inkish -o my_style/
      si-hub train base/ pictures/ --steps 1000 --every 100 --report report.html
      si-hub train base/ --styles ink/ --styles neon/ -o two.safetensors
      si-hub train base/ pictures/ --method lora -o lora.safetensors
      accelerate launch -m si_hub.cli train base/ pictures/
    """
    from si_hub.report.progress import progress_bar
    from si_hub.training.command import plan_training
    from si_hub.training.command import train as train_adapter
    from si_hub.work.processes import is_main

    taken = {name for name, value in options.items() if value is not None}
    for name in more:
        if name in taken:
            raise UsageError("is said twice", key=name, hint="Say it once, by its own option.")
    told = {name: value for name, value in options.items() if value is not None} | more
    if square:
        told["buckets"] = False
    if trackers:
        told["trackers"] = trackers
    try:
        with progress_bar("training", quiet=json_ or not is_main(), share=True) as progress:
            run: Callable[..., Any] = plan_training if dry_run else train_adapter
            result = run(base, pictures, progress=progress, **told)
    except KeyboardInterrupt:
        if is_main():
            complain("what is finished is kept; the same command goes on from there")
        raise
    if is_main():
        show(result, json_)
