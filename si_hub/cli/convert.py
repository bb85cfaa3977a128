"""`si-hub convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from si_hub.cli.group import main
from si_hub.cli.options import GivenModel, GivenOutput, GivenPath, NamesBases, as_bytes, as_json
from si_hub.cli.printing import say, show
from si_hub.errors import UsageError
from si_hub.foreign import json_text


@main.command("convert", cls=NamesBases)
@click.argument("sources", type=GivenPath(), nargs=-1, required=True)
@click.option("-o", "--output", type=GivenOutput(), help="File or folder to write.  [default: beside the source]")
@click.option(
    "--base", type=GivenModel(), metavar="NAME|PATH",
    help="Base model: a name below, or, for DoRA, OFT and others that need its weights, a diffusers folder, "
    "a checkpoint or a cached repository.",
)  # fmt: skip
@click.option("-f", "--force", is_flag=True, help="Overwrite the output file.")
@click.option("--allow-partial", is_flag=True, help="Convert what fits, name every tensor left out, and succeed.")
@click.option("--allow-large", is_flag=True, help="Write an exact form of more than four times the source's numbers.")
@click.option(
    "--pair", is_flag=True, help="Two files, of high and low noise, are one adapter for two denoisers (Wan 2.2)."
)
@click.option(
    "--denoiser", metavar="NAME", help="Which of a base model's two denoisers it is for, such as transformer_2."
)
@click.option("--check", is_flag=True, help="Recompute every layer in float64 from both files; say the largest error.")
@click.option("--rank", type=int, metavar="N", help="Make it smaller: pairs of this rank at most, errors measured.")
@click.option("--tolerance", type=float, metavar="X", help="Make it smaller: this relative error of a layer at most.")
@click.option("--size", callback=as_bytes, metavar="SIZE", help="Make it smaller: such as 40MB.")
@click.option("--weight-name", metavar="FILE", help="Which file of a repository.")
@click.option("--token", metavar="TOKEN", help="Default: the one of `hf auth login`, or HF_TOKEN.")
@as_json
def convert_command(sources: tuple[Path, ...], output: Path | None, pair: bool, json_: bool, **options: Any) -> None:
    """Convert the adapter file, folder or repository SOURCES to the StyleInject format, exactly.

    Several, a pattern, or a folder that is no adapter itself: every adapter in it is converted, what is done is left,
    what fails is named at the end.

    \b
    Examples:
      si-hub convert lora.safetensors
      si-hub convert lora.safetensors -o style.safetensors --force
      si-hub convert peft_folder/ --base ./my-stable-diffusion
      si-hub convert dora.safetensors --base ./sdxl --check
      si-hub convert oft.safetensors --base sd_xl_base_1.0.safetensors --rank 32
      si-hub convert ./loras -o ./styleinject       every adapter of a folder and its subfolders
      si-hub convert high.safetensors low.safetensors --pair --base wan2.2-t2v-a14b
      si-hub convert user/lora@v1                   a repository on the Hub becomes lora.styleinject.safetensors
    """
    from si_hub.batch import is_many
    from si_hub.conversion import convert as convert_file
    from si_hub.report.progress import progress_bar
    from si_hub.storage.system import return_large_memory

    return_large_memory()
    with progress_bar("converting", quiet=json_) as progress:
        if pair:
            show(convert_file(sources, output, progress=progress, **options), json_)
        elif is_many(sources):
            convert_many(sources, output, json_, progress=progress, **options)
        else:
            show(convert_file(sources[0], output, progress=progress, **options), json_)


def convert_many(sources: tuple[Path, ...], output: Path | None, json_: bool, **options: Any) -> None:
    """One line of JSON each as it is done, or a table at the end."""
    from si_hub.batch import convert_all, exit_code_of, table_of

    if options.pop("weight_name", None):
        raise UsageError("names a file of one repository", key="--weight-name", hint="Name the files themselves.")
    items = []
    for item in convert_all(sources, output, **options):
        items.append(item)
        if json_:
            say(json_text(item.as_dict()))
    if not json_:
        say(table_of(items))
    codes = [item.error.exit_code for item in items if item.error and item.status == "failed"]
    click.get_current_context().exit(exit_code_of(codes))
