"""`si-hub distill`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from si_hub.cli.group import main
from si_hub.cli.options import GivenModel, GivenPath, as_bytes, as_json, as_table, as_words
from si_hub.cli.printing import complain, show
from si_hub.errors import UsageError
from si_hub.foreign import make_safe

SETTING = "Any other setting of the method, such as trajectories=32; docs/DISTILL.md lists them."
#: What the file says of itself, where one is written.
_KEPT = ("title", "license", "trigger_words")


@main.command("distill")
@click.argument("base", type=GivenModel())
@click.argument("tuned", type=GivenModel(), nargs=-1, required=True)
@click.option("-o", "--output", type=GivenPath(), help="File or folder to write.  [default: beside the first TUNED]")
@click.option("--method", metavar="NAME", help="svd, calibrated or trained.  [default: the best that can run here]")
@click.option("--rank", type=int, help="Rank of every layer.")
@click.option("--size", callback=as_bytes, metavar="SIZE", help="Size of the adapter, such as 40MB.  [default: chosen]")
@click.option("--fidelity", type=float, help="Share of the tuned model's behaviour to keep, such as 0.95.")
@click.option("--dtype", help="Numbers of the adapter: int8, fp16, bf16, fp32.  [default: fp16, if near enough]")
@click.option("--prompts", type=GivenPath(), help="Prompts to calibrate and train with, one a line.")
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1, xpu or mps.  [default: the machine's best]")
@click.option("--config", type=GivenModel(), help="Of a single-file BASE: the pipeline folder it lacks.")
@click.option("--embeddings", is_flag=True, help="Carry changed token embeddings whole, with svd.")
@click.option("--trust-order", is_flag=True, help="BASE is the base, even where the two look swapped.")
@click.option("--work", type=GivenPath(), help="Folder for unfinished work, to go on from after an interruption.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything random.")
@click.option("--report", type=GivenPath(), multiple=True, metavar="FILE", help="Report to write, .html or .png.")
@click.option("--pictures", type=int, default=4, show_default=True, help="Prompts to draw for the report.")
@click.option("--guidance", type=float, help="Guidance scale to sample with.  [default: the pipeline's]")
@click.option("--resolution", type=int, metavar="PIXELS", help="Side of the pictures.  [default: the pipeline's]")
@click.option("--steps", type=int, help="Training steps of the method trained.")
@click.option("--images", type=GivenPath(), help="Folder of pictures to train on, instead of sampled states.")
@click.option("--precision", metavar="NAME", help="The model is held in: no (float32), fp16 or bf16.")
@click.option("--branches", metavar="NAMES", help="Of several TUNED models, such as ink,neon.  [default: the files']")
@click.option("--router", metavar="KIND", help="Of several: fixed mix, or learned from prompts.  [default: fixed]")
@click.option("--sharing", is_flag=True, help="Only say what several TUNED models share, and what that saves.")
@click.option("--set", "settings", callback=as_table, multiple=True, metavar="NAME=VALUE", help=SETTING)
@click.option("--curve", is_flag=True, help="Only say what each size would leave of the error; --report plots it.")
@click.option("--title", metavar="TEXT", help="Kept in the file.")
@click.option("--license", metavar="ID", help="Kept in the file, such as cc-by-4.0.")
@click.option("--trigger-words", callback=as_words, metavar="WORDS", help="Kept in the file, between commas.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors and warnings.")
@click.option("-f", "--force", is_flag=True, help="Overwrite the output and report files.")
@as_json
def distill_command(
    base: str,
    tuned: tuple[str, ...],
    curve: bool,
    sharing: bool,
    quiet: bool,
    json_: bool,
    settings: dict[str, Any],
    **options: Any,
) -> None:
    """Make one small adapter of what distinguishes TUNED models from their BASE.

    Each is a diffusers folder, a single-file checkpoint, or a repository id in the local cache. Interrupted, the same
    command goes on where it was; under `accelerate launch` the processes share the work.

    \b
    Examples:
      si-hub distill base/ community.safetensors
      si-hub distill base/ community.safetensors --method svd --rank 32 --dtype fp16
      si-hub distill base/ community.safetensors --curve
      si-hub distill base/ community.safetensors --size 40MB --report report.html
      si-hub distill base/ community.safetensors --size 40MB --method trained --steps 1000
      si-hub distill base/ ink.safetensors neon.safetensors --sharing
    """
    from inspect import signature

    from si_hub.distill import compare
    from si_hub.distill import curve as curve_of
    from si_hub.distill import distill as distill_models
    from si_hub.distill.request import WITH_FLAG
    from si_hub.report.progress import progress_bar
    from si_hub.work.processes import is_main

    told = {name: options.pop(name) for name in WITH_FLAG}
    if curve and sharing:
        raise UsageError("--curve and --sharing are two questions", hint="Ask one at a time.")
    run: Callable[..., Any] = compare if sharing else curve_of if curve else distill_models
    if run is not distill_models:
        for name in _KEPT:
            if options.pop(name):
                raise UsageError("is kept in an adapter, and none is made", key=name, hint="Leave it out.")
    # What the command says itself is no setting of a method.
    taken = {*options, *signature(run).parameters}
    for name in settings:
        if name in taken or told.get(name) is not None:
            raise UsageError("is nothing to --set, or is said twice", key=name, hint="Say it once, by its own option.")
    own = {name: value for name, value in told.items() if value is not None} | settings
    try:
        silent = quiet or json_ or not is_main()
        with progress_bar("distilling", quiet=silent, share=True) as progress:
            tell = {} if silent or run is not distill_models else {"tell": complain}
            result = run(base, *tuned, progress=progress, **tell, **options, **own)
    except KeyboardInterrupt:
        if is_main():
            complain("what is finished is kept; the same command goes on from there")
        raise
    if is_main():
        if json_ or not quiet:
            show(result, json_)
        for warning in getattr(result, "warnings", ()):
            complain(f"warning: {make_safe(warning, 1000)}")
