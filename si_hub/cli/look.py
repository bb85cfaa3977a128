"""`si-hub inspect` and `si-hub validate`: what files are, and whether they are right."""

from __future__ import annotations

from pathlib import Path

import click

from si_hub.cli.group import main
from si_hub.cli.options import GivenModel, GivenPath, as_json
from si_hub.cli.printing import complain, say, show
from si_hub.foreign import json_text


@main.command("inspect")
@click.argument("paths", type=GivenPath(), nargs=-1, required=True)
@click.option("--base", type=GivenModel(), metavar="NAME|PATH", help="Base model to match a foreign file against.")
@click.option("--token", metavar="TOKEN", help="Default: the one of `hf auth login`, or HF_TOKEN.")
@as_json
def inspect_command(paths: tuple[Path, ...], base: str | None, token: str | None, json_: bool) -> None:
    """Say what PATHS are, read from headers alone: adapters and checkpoints, folders or repositories of them.

    \b
    Examples:
      si-hub inspect lora.safetensors
      si-hub inspect v1-5-pruned-emaonly.safetensors --json
      si-hub inspect ./loras                        every file of a folder, and a table at the end
      si-hub inspect user/style                     a repository on the Hub, by one ranged read
    """
    from si_hub.batch import exit_code_of, inspect_all, inspect_table, is_many_files
    from si_hub.inspection import inspect as inspect_path

    if not is_many_files(paths):
        show(inspect_path(paths[0], base=base, token=token), json_)
        return
    found = []
    for one in inspect_all(paths, base=base, token=token):
        found.append(one)
        say(json_text(one.as_dict()) if json_ else one.as_text())
    if not json_:
        say(inspect_table(found))
    broken = [one.problem.get("exit_code") for one in found if one.kind == "unreadable"]
    codes = [code for code in broken if isinstance(code, int)]
    click.get_current_context().exit(exit_code_of(codes))


@main.command("validate")
@click.argument("paths", type=GivenPath(), nargs=-1, required=True)
@as_json
@click.pass_context
def validate_command(ctx: click.Context, paths: tuple[Path, ...], json_: bool) -> None:
    """Check StyleInject files whole: header, document, shapes, hash of the data, NaN and infinity.

    \b
    Examples:
      si-hub validate style.styleinject.safetensors
      si-hub validate adapters/*.safetensors --json
    """
    from si_hub.inspection import Invalid, validate_all

    results = validate_all(paths)
    errors = [result.error for result in results if isinstance(result, Invalid)]
    show([result for result in results if json_ or not isinstance(result, Invalid)], json_)
    for error in errors:
        complain(str(error))
    if errors:
        ctx.exit(errors[0].exit_code)
