"""`si-hub diff`, `si-hub edit`, `si-hub split` and `si-hub unfuse`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from si_hub.cli.group import main
from si_hub.cli.options import GivenModel, GivenPath, as_json
from si_hub.cli.printing import show
from si_hub.errors import UsageError


@main.command("diff")
@click.argument("first", type=GivenPath())
@click.argument("second", type=GivenPath())
@click.option("--base", type=GivenModel(), metavar="NAME|PATH", help="Base model of foreign files; its weights.")
@click.option("--style", metavar="NAME", help="Compare this named style of an adapter that has several.")
@as_json
def diff_command(first: Path, second: Path, base: str | None, style: str | None, json_: bool) -> None:
    """Compare the adapters FIRST and SECOND, of any two families, by what they do: per layer and in all.

    \b
    Examples:
      si-hub diff lora.safetensors lora.styleinject.safetensors
      si-hub diff lokr.safetensors lora.safetensors --base sdxl --json
      si-hub diff styles.safetensors ink.safetensors --style ink
    """
    from si_hub.editing.comparing import diff
    from si_hub.report.progress import progress_bar

    with progress_bar("comparing", quiet=json_, share=True) as progress:
        show(diff(first, second, base=base, styles={style: 1.0} if style else None, progress=progress), json_)


@main.command("split")
@click.argument("sources", type=GivenPath(), nargs=-1, required=True)
@click.option("--by", type=click.Choice(["component", "branch", "block"]), default="component", show_default=True)
@click.option("-o", "--output", type=GivenPath(), help="Folder for the parts.  [default: the source's]")
@click.option("--base", type=GivenModel(), metavar="NAME|PATH", help="Base model of foreign files.")
@click.option("-f", "--force", is_flag=True, help="Overwrite files.")
@click.option("--dry-run", is_flag=True, help="Say what would be written.")
@as_json
def split_command(sources: tuple[Path, ...], output: Path | None, json_: bool, **options: Any) -> None:
    """Write the parts of the adapters SOURCES as files of their own; merged again they are what they were.

    \b
    Examples:
      si-hub split style.safetensors                      unet, text_encoder ... apart
      si-hub split styles.safetensors --by branch -o styles/
      si-hub split lora.safetensors --by block --dry-run
    """
    from si_hub.editing.splitting import split
    from si_hub.report.progress import progress_bar

    with progress_bar("splitting", quiet=json_, share=True) as progress:
        found = [split(source, output, progress=progress, **options) for source in sources]
    show(found if len(found) > 1 else found[0], json_)


@main.command("edit")
@click.argument("files", type=GivenPath(), nargs=-1, required=True)
@click.option("--title", metavar="TEXT")
@click.option("--author", metavar="TEXT")
@click.option("--license", metavar="TEXT", help="Such as cc-by-4.0.")
@click.option(
    "--trigger-words", multiple=True, metavar="TEXT", help="Words that call it; several times, or with commas."
)
@click.option("--tag", "tags", multiple=True, metavar="TEXT", help="Several times, or with commas.")
@click.option("--preview", metavar="PICTURE", help="A PNG, JPEG or WebP of 1 MiB at most, shown with the file.")
@click.option("--preview-prompt", "preview_prompts", multiple=True, metavar="TEXT", help="Several times.")
@click.option("-o", "--output", type=GivenPath(), help="File or folder to write.  [default: the file itself]")
@click.option("-f", "--force", is_flag=True, help="Overwrite another output file.")
@click.option("--dry-run", is_flag=True, help="Say what would change.")
@as_json
def edit_command(files: tuple[Path, ...], output: Path | None, json_: bool, **options: Any) -> None:
    """Change what FILES say of themselves: StyleInject's or any other safetensors. An empty TEXT takes it away.

    Only the header is written anew; tensors are copied byte for byte, hashes of them stay.

    \b
    Examples:
      si-hub edit style.safetensors --title Ink --author me --license cc-by-4.0
      si-hub edit lora.safetensors --trigger-words "ink drawing, sketch" --tag style --preview cover.jpg
      si-hub edit style.safetensors --title "" --dry-run
    """
    from si_hub.editing.describing import edit

    for name in ("trigger_words", "tags"):
        options[name] = [word.strip() for text in options[name] for word in text.split(",")] or None
    options["preview_prompts"] = list(options["preview_prompts"]) or None
    if output is not None and len(files) > 1 and not output.is_dir():
        raise UsageError("is no folder, and several files want one", key="-o", found=output)
    found = [edit(file, output, **options) for file in files]
    show(found if len(found) > 1 else found[0], json_)


@main.command("unfuse")
@click.argument("model", type=GivenPath())
@click.option("--base", type=GivenPath(), metavar="MODEL", help="Say whether this is what the model was before.")
@as_json
def unfuse_command(model: Path, base: Path | None, json_: bool) -> None:
    """Say which adapters were fused into MODEL, at which weight, and which base gives it back as it was.

    \b
    Examples:
      si-hub unfuse tuned/
      si-hub unfuse tuned.safetensors --base v1-5-pruned-emaonly.safetensors
    """
    from si_hub.editing.unfusing import find_fused

    show(find_fused(model, base), json_)
