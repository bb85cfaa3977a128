"""`si-hub merge`, `si-hub resize` and `si-hub fuse`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from si_hub.cli.group import main
from si_hub.cli.options import GivenModel, GivenOutput, GivenPath, as_bytes, as_json, as_styles
from si_hub.cli.printing import show
from si_hub.errors import UsageError


def as_term(text: str) -> tuple[Path, float | dict[str, float]]:
    """``style.safetensors:0.7`` as a file and its weight; 1 where none is said, or where a file has that name.

    ``style.safetensors:unet=0.7,unet.down=0.3`` has weights by component, block or module.
    """
    name, colon, weight = text.rpartition(":")
    if not colon or Path(text).exists():
        return Path(text), 1.0
    try:
        if "=" not in weight:
            return Path(name), float(weight)
        table = (item.strip().rpartition("=") for item in weight.split(","))
        return Path(name), {key: float(value) for key, _, value in table}
    except ValueError:
        return Path(text), 1.0


@main.command("merge")
@click.argument("adapters", nargs=-1, required=True, metavar="ADAPTER[:WEIGHT]...")
@click.option("-o", "--output", type=GivenPath(), required=True, help="File to write.")
@click.option("--branches", is_flag=True, help="Keep each as a named style of one adapter, mixed at run time.")
@click.option("--base", type=GivenModel(), metavar="NAME|PATH", help="Base model of foreign files; its weights.")
@click.option("--rank", type=int, metavar="N", help="Make it smaller: pairs of this rank at most, errors measured.")
@click.option("--tolerance", type=float, metavar="X", help="Make it smaller: this relative error of a layer at most.")
@click.option("--size", callback=as_bytes, metavar="SIZE", help="Make it smaller: such as 40MB.")
@click.option("--method", default="svd", show_default=True, help="How: svd, or calibrated by the predicted noise.")
@click.option("--prompts", type=GivenPath(), help="Prompts to calibrate with, one a line.")
@click.option("--title", metavar="TEXT")
@click.option("--report", is_flag=True, help="Say how much they overlap, layer by layer, and where they interfere.")
@click.option("-f", "--force", is_flag=True, help="Overwrite the output file.")
@click.option("--dry-run", is_flag=True, help="Compute it, and write nothing.")
@as_json
def merge_command(adapters: tuple[str, ...], output: Path, json_: bool, **options: Any) -> None:
    """Add up adapters of any families, each with its weight, exactly.

    \b
    Examples:
      si-hub merge ink.safetensors:0.7 neon.safetensors:-0.4 -o mix.safetensors
      si-hub merge a.safetensors b.safetensors c.safetensors -o sum.safetensors --rank 64
      si-hub merge ink.safetensors neon.safetensors --branches -o styles.safetensors
      si-hub merge a.safetensors b.safetensors --base base/ --size 20MB --method calibrated -o small.safetensors
      si-hub merge ink.safetensors:unet=0.7,text_encoder=0 neon.safetensors:unet.down=0.3 -o mix.safetensors
      si-hub merge ink.safetensors neon.safetensors -o mix.safetensors --report --dry-run
    """
    from si_hub.editing.command import merge
    from si_hub.report.progress import progress_bar

    terms = [as_term(text) for text in adapters]
    with progress_bar("merging", quiet=json_, share=True) as progress:
        show(merge(terms, output, progress=progress, **options), json_)


@main.command("resize")
@click.argument("sources", type=GivenPath(), nargs=-1, required=True)
@click.option("-o", "--output", type=GivenOutput(), required=True, help="File to write; a folder for several.")
@click.option("--base", type=GivenModel(), metavar="NAME|PATH", help="Base model of a foreign file; its weights.")
@click.option("--rank", type=int, metavar="N", help="The rank of every layer at most.")
@click.option("--tolerance", type=float, metavar="X", help="The relative error of every layer at most.")
@click.option("--size", callback=as_bytes, metavar="SIZE", help="Bytes of the file at most, such as 40MB.")
@click.option("-f", "--force", is_flag=True, help="Overwrite the output file.")
@click.option("--dry-run", is_flag=True, help="Compute it, and write nothing.")
@as_json
def resize_command(sources: tuple[Path, ...], output: Path, json_: bool, **options: Any) -> None:
    """Make the adapters SOURCES smaller, by the best pairs of each layer; the errors are measured.

    \b
    Examples:
      si-hub resize style.safetensors --rank 16 -o small.safetensors
      si-hub resize style.safetensors --tolerance 0.05 -o small.safetensors
      si-hub resize lora.safetensors --size 40MB -o small.safetensors
      si-hub resize loras/*.safetensors --rank 16 -o small/
    """
    from si_hub.editing.command import resize
    from si_hub.report.progress import progress_bar

    folder = Path(output).is_dir() or str(output).endswith("/")
    if len(sources) > 1 and not folder:
        hint = "Name a folder, ending in /"
        raise UsageError("several files go into a folder", key="-o", found=str(output), hint=hint)
    if folder:
        Path(output).mkdir(parents=True, exist_ok=True)
    for source in sources:
        path = Path(output) / source.name if folder else output
        with progress_bar("resizing", quiet=json_, share=True) as progress:
            show(resize(source, path, progress=progress, **options), json_)


@main.command("fuse")
@click.argument("adapter", type=GivenPath())
@click.argument("base", type=GivenModel())
@click.option("-o", "--output", type=GivenPath(), required=True, help="Folder or file to write.")
@click.option("--weight", type=float, default=1.0, show_default=True, help="Of the adapter.")
@click.option("--styles", callback=as_styles, metavar="NAME=W,…", help="The mix of its named styles, such as ink=0.7.")
@click.option("-f", "--force", is_flag=True, help="Overwrite the output file.")
@click.option("--dry-run", is_flag=True, help="Say what would be changed, and write nothing.")
@as_json
def fuse_command(adapter: Path, base: str, output: Path, json_: bool, **options: Any) -> None:
    """Write the model BASE with the ADAPTER in its weights: a folder from a folder, a file from a file.

    Dtypes stay, what the adapter leaves alone is copied, and the header says what was fused at which weight.

    \b
    Examples:
      si-hub fuse style.safetensors base/ -o tuned/
      si-hub fuse lora.safetensors v1-5-pruned-emaonly.safetensors --weight 0.8 -o tuned.safetensors
    """
    from si_hub.editing.fusing import fuse
    from si_hub.report.progress import progress_bar

    with progress_bar("fusing", quiet=json_) as progress:
        show(fuse(adapter, base, output, progress=progress, **options), json_)
