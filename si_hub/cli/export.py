"""`si-hub export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from si_hub.cli.group import main
from si_hub.cli.options import GivenModel, GivenOutput, GivenPath, as_json, as_styles
from si_hub.cli.printing import say, show
from si_hub.foreign import json_text

#: Those of `si_hub.exporting.command`, named here because help is shown without loading it; a test compares.
EXPORTED = ("original", "kohya", "diffusers", "peft", "comfy")


@main.command("export")
@click.argument("sources", type=GivenPath(), nargs=-1, required=True)
@click.option("--to", required=True, type=click.Choice(EXPORTED), help="The format to write.")
@click.option("-o", "--output", type=GivenOutput(), help="File or folder to write.  [default: beside the source]")
@click.option(
    "--base", type=GivenModel(), metavar="NAME|PATH",
    help="Base model of a foreign source; or a folder or checkpoint, whose weights are needed for what acts on them.",
)  # fmt: skip
@click.option("--styles", callback=as_styles, metavar="NAME=W,…", help="The mix of its named styles, such as ink=0.7.")
@click.option("--rank", type=int, metavar="N", help="Make pairs of what the format cannot say; errors are measured.")
@click.option("--tolerance", type=float, metavar="X", help="The same, of this relative error of a layer at most.")
@click.option("--check", is_flag=True, help="Read what was written back and recompute every layer in float64.")
@click.option("-f", "--force", is_flag=True, help="Overwrite the output file.")
@click.option("--dry-run", is_flag=True, help="Say what would be written, write nothing.")
@as_json
def export_command(sources: tuple[Path, ...], output: Path | None, json_: bool, **options: Any) -> None:
    """Write the adapters SOURCES, StyleInject files or any others, in another program's format, exactly.

    kohya is what A1111, Forge, ComfyUI and most others read; comfy has ComfyUI's own names; original is the file that
    it was converted from, bit for bit. What a format has no place for is refused, or made pairs of with --rank.
    Several, a pattern, or a folder that is no adapter itself: every adapter in it; what fails is named at the end.

    \b
    Examples:
      si-hub export style.styleinject.safetensors --to kohya
      si-hub export lora_diffusers.safetensors --to kohya -o lora.safetensors
      si-hub export mix.styleinject.safetensors --to diffusers --styles ink=0.7,neon=0.3
      si-hub export lokr.safetensors --to peft --rank 32
      si-hub export dora.safetensors --to diffusers --base ./sdxl --check
      si-hub export ./loras --to original -o back/     every adapter of a folder and its subfolders
    """
    from si_hub.exporting.command import export
    from si_hub.exporting.many import export_all, is_one_adapter, list_exports
    from si_hub.report.progress import progress_bar
    from si_hub.storage.system import return_large_memory

    return_large_memory()
    if is_one_adapter(sources):
        with progress_bar("exporting", quiet=json_) as progress:
            show(export(sources[0], output, progress=progress, **options), json_)
        return
    items = []
    with progress_bar("exporting", quiet=json_, share=True) as progress:
        for item in export_all(sources, output, progress=progress, **options):
            items.append(item)
            if json_:
                say(json_text(item.as_dict()))
    if not json_:
        say(list_exports(items))
    codes = {item.error.exit_code for item in items if item.error and item.status == "failed"}
    click.get_current_context().exit(codes.pop() if len(codes) == 1 else int(bool(codes)))
