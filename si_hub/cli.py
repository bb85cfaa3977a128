"""The command line: parse, call, print. What the commands do lives in the rooms they call.

Results go to stdout, everything else to stderr. Exit codes are those of `si_hub.errors`: 0 done, 2 usage,
3 format, 4 refused, 5 base mismatch, 6 checksum, 7 missing, 8 file access, 9 no right (token), 10 gated,
11 rate limit, 12 network, 13 conflict, 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import wrap
from typing import Any, TypeVar

import click

from si_hub import __version__
from si_hub.errors import FileAccessError, SiHubError, UsageError
from si_hub.foreign import json_text, make_lines_safe, make_safe
from si_hub.report.streams import escape_unprintable
from si_hub.words import at_command_line

INTERRUPTED = 130
JSON = "si_hub.json"

SETTING = "Any other setting of the method, such as trajectories=32; docs/DISTILL.md lists them."

Command = TypeVar("Command", bound=Callable[..., Any])


def as_json(command: Command) -> Command:
    """The ``--json`` switch: the result, or the error, as JSON on stdout."""

    def remember(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
        ctx.find_root().meta[JSON] = value
        return value

    text = "Print JSON for scripts, errors included."
    return click.option("--json", "json_", is_flag=True, is_eager=True, callback=remember, help=text)(command)


class GivenPath(click.Path):
    """A path that is not the empty text of an unset shell variable, which would mean the current folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


class GivenOutput(GivenPath):
    """A file or folder to write; one that ends in a slash is a folder, which a path does not say any more."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = super().convert(value, param, ctx)
        return value if isinstance(value, str) and value.endswith("/") else path


class GivenModel(click.types.StringParamType):
    """A model's path or repository id, as it is written; the empty text is as wrong as for `GivenPath`."""

    name = "path or repository id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the path is empty", param, ctx)
        return value


def as_bytes(_: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """The value of an option that is a size as people write it: ``40MB``, ``1.5 GB``, ``900000``."""
    from si_hub.report.text import size_bytes

    try:
        return None if value is None else size_bytes(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no size such as 40MB", param=param) from None


def as_table(_: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    """The values of a repeated ``NAME=VALUE``: numbers, true and false as such, everything else as text."""
    table: dict[str, Any] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not name.isidentifier() or not equals or not value:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", param=param)
        try:
            table[name] = json.loads(value)
        except ValueError:
            table[name] = value
    return table


class Commands(click.Group):
    """Turns our errors into one line and an exit code, whichever command raised them."""

    def main(self, *args: Any, **extra: Any) -> Any:
        escape_unprintable((sys.stdout, sys.stderr))
        return super().main(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with at_command_line():
            return self._invoke(ctx)

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SiHubError as error:
            return self.report(ctx, error)
        except click.ClickException as error:
            # It repeats what was typed, which may be a file's name that a shell put in place of a pattern.
            error.message = make_safe(error.message, 1000)  # type: ignore[misc]
            raise
        except BrokenPipeError:
            raise  # The reader of our output went away, as `head` does: click knows how to end quietly.
        except OSError as error:
            return self.report(ctx, FileAccessError(error.strerror or str(error), file=error.filename))
        except KeyboardInterrupt:
            complain("interrupted, nothing half-written is left behind")
            ctx.exit(INTERRUPTED)

    def report(self, ctx: click.Context, error: SiHubError) -> Any:
        if ctx.find_root().meta.get(JSON):
            say(json_text(error.as_dict()))
        complain(str(error))
        ctx.exit(error.exit_code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="si-hub")
def main() -> None:
    """StyleInject adapters for diffusers: convert, look, check, distill, share.

    \b
    Examples:
      si-hub convert lora.safetensors             a community LoRA becomes lora.styleinject.safetensors
      si-hub convert lora.safetensors --base sdxl say which base model it is for
      si-hub inspect lora.safetensors             what a file holds, without loading it
      si-hub validate style.styleinject.safetensors
      si-hub distill base/ community.safetensors  a tuned model becomes a small adapter
      si-hub push . user/style                    share an adapter on the Hub
      si-hub pull user/style                      get one, verified

    In Python:

    \b
      import si_hub; si_hub.enable()
      pipe.load_styleinject_weights("user/style")  # or any LoRA, LoHa, LoKr, DoRA … file
    """


class NamesBases(click.Command):
    """A command whose help ends with the names of all base models."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from si_hub.architectures import names

        # A name is kept whole: click's own lines break at hyphens.
        width = formatter.width - 4
        with formatter.section("Base models"):
            for line in wrap(", ".join(names()), width, break_on_hyphens=False):
                formatter.write(f"  {line}\n")


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


@main.command("distill")
@click.argument("base", type=GivenModel())
@click.argument("tuned", type=GivenModel(), nargs=-1, required=True)
@click.option("-o", "--output", type=GivenPath(), help="File or folder to write.  [default: beside the first TUNED]")
@click.option("--method", metavar="NAME", help="svd, calibrated or trained.  [default: the best that can run here]")
@click.option("--rank", type=int, help="Rank of every layer.")
@click.option("--size", callback=as_bytes, metavar="SIZE", help="Size of the adapter, such as 40MB.")
@click.option("--fidelity", type=float, help="Share of the tuned model's behaviour to keep, such as 0.95.")
@click.option("--dtype", default="fp32", show_default=True, help="Numbers of the adapter: fp32, fp16 or bf16.")
@click.option("--prompts", type=GivenPath(), help="Prompts to calibrate and train with, one a line.")
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1, xpu or mps.  [default: the machine's best]")
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
@click.option("--precision", metavar="NAME", help="Arithmetic of training: no, fp16 or bf16.")
@click.option("--branches", metavar="NAMES", help="Of several TUNED models, such as ink,neon.  [default: the files']")
@click.option("--router", metavar="KIND", help="Of several: fixed mix, or learned from prompts.  [default: fixed]")
@click.option("--sharing", is_flag=True, help="Only say what several TUNED models share, and what that saves.")
@click.option("--set", "settings", callback=as_table, multiple=True, metavar="NAME=VALUE", help=SETTING)
@click.option("--curve", is_flag=True, help="Only say what each size would leave of the error; --report plots it.")
@click.option("-f", "--force", is_flag=True, help="Overwrite the output and report files.")
@as_json
def distill_command(
    base: str,
    tuned: tuple[str, ...],
    curve: bool,
    sharing: bool,
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
    from si_hub.distill.work.processes import is_main
    from si_hub.report.progress import progress_bar

    told = {name: options.pop(name) for name in WITH_FLAG}
    if curve and sharing:
        raise UsageError("--curve and --sharing are two questions", hint="Ask one at a time.")
    run: Callable[..., Any] = compare if sharing else curve_of if curve else distill_models
    # What the command says itself is no setting of a method.
    taken = {*options, *signature(run).parameters}
    for name in settings:
        if name in taken or told.get(name) is not None:
            raise UsageError("is nothing to --set, or is said twice", key=name, hint="Say it once, by its own option.")
    own = {name: value for name, value in told.items() if value is not None} | settings
    try:
        with progress_bar("distilling", quiet=json_ or not is_main(), share=True) as progress:
            result = run(base, *tuned, progress=progress, **options, **own)
    except KeyboardInterrupt:
        if is_main():
            complain("what is finished is kept; the same command goes on from there")
        raise
    if is_main():
        show(result, json_)
        for warning in getattr(result, "warnings", ()):
            complain(f"warning: {make_safe(warning, 1000)}")


@main.command("pull")
@click.argument("repo_id")
@click.option("--revision", metavar="REV", help="Branch, tag or commit; REPO_ID@REV says the same.")
@click.option("--local-dir", type=GivenPath(), help="Folder for the files.  [default: the cache of huggingface_hub]")
@click.option("--cache-dir", type=GivenPath(), help="Another cache.")
@click.option("--subfolder", metavar="NAME", help="Only what is in it.")
@click.option("--weight-name", metavar="FILE", help="Of the weights only this file.")
@click.option("-f", "--force", is_flag=True, help="Fetch again, and replace changed files in --local-dir.")
@click.option("--local-files-only", is_flag=True, help="From the cache, without asking the Hub.")
@click.option("--max-workers", type=click.IntRange(1, 64), default=8, show_default=True, help="Files fetched at once.")
@click.option("--token", metavar="TOKEN", help="Default: the one of `hf auth login`, or HF_TOKEN.")
@click.option("-q", "--quiet", is_flag=True, help="Print the lock line only.")
@as_json
def pull_command(repo_id: str, force: bool, quiet: bool, json_: bool, **options: Any) -> None:
    """Fetch the repository REPO_ID, user/name or user/name@revision: one commit, only what is safe, verified.

    Safe are safetensors, JSON, Markdown and images; what else there is, is named and left. The lock line at the end,
    user/name@commit, is a REPO_ID that gives the same bytes for ever.

    \b
    Examples:
      si-hub pull user/style
      si-hub pull user/style@v1 --local-dir style
      si-hub pull user/style --local-files-only --json
    """
    from si_hub.hub.pull import pull as pull_repository
    from si_hub.report.progress import progress_bar

    with progress_bar("pulling", quiet=quiet or json_) as progress:
        result = pull_repository(repo_id, force_download=force, progress=progress, **options)
    if quiet and not json_:
        say(result.lock)
    else:
        show(result, json_)


@main.command("push")
@click.argument("path", required=False)
@click.argument("repo_id", required=False)
@click.option("--revision", metavar="BRANCH", help="Branch to push to; made from main where it is missing.")
@click.option("--tag", metavar="NAME", help="Tag the commit.")
@click.option("--private", is_flag=True, help="Make a new repository private; refuse a public one.")
@click.option("--create-pr", is_flag=True, help="Open a pull request instead of pushing to main.")
@click.option("-m", "--commit-message", metavar="TEXT", help="First line, and after an empty line the rest.")
@click.option("-f", "--force", is_flag=True, help="Push on top of commits that this folder has not seen.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent, show the card's changes, send nothing.")
@click.option("--token", metavar="TOKEN", help="Default: the one of `hf auth login`, or HF_TOKEN.")
@click.option("-q", "--quiet", is_flag=True, help="Print the commit's address only.")
@as_json
def push_command(path: str | None, repo_id: str | None, quiet: bool, json_: bool, **options: Any) -> None:
    """Share the adapter PATH, a file or a folder with one, as the repository REPO_ID, in one commit.

    README.md becomes its card: a generated part is renewed, your own words stay. Pictures in samples/ go along; nothing
    else does. The folder remembers the repository.

    \b
    Examples:
      si-hub push . user/style                      the first time
      si-hub push                                   from then on
      si-hub push neon.safetensors user/neon --private
      si-hub push --revision dev --tag v2 --dry-run
    """
    from si_hub.hub.names import looks_like_ref
    from si_hub.hub.push.pushing import push as push_adapter

    if path == "" or repo_id == "":
        raise UsageError("the path is empty" if path == "" else "the repository's name is empty")
    if path is not None and repo_id is None and looks_like_ref(path) and not Path(path).exists():
        path, repo_id = None, path
    bars = not (quiet or json_) and sys.stderr.isatty()
    result = push_adapter(path or ".", repo_id, bars=bars, **options)
    if quiet and not json_:
        say(result.url)
    else:
        show(result, json_)


def show(result: Any, json_: bool) -> None:
    """Print ``result``: every result knows itself as JSON data and as lines for people."""
    items = result if isinstance(result, list) else [result]
    if json_:
        data = [item.as_dict() for item in items]
        say(json_text(data if isinstance(result, list) else data[0], indent=2))
        return
    for item in items:
        say(item.as_text())


def say(text: str) -> None:
    """Print a result. Whatever foreign text is in it, its bytes are characters that are seen, and line breaks."""
    click.echo(make_lines_safe(text))


def complain(text: str) -> None:
    """Print what went wrong, to stderr, as one line."""
    click.echo(f"si-hub: {make_safe(text, 8000)}", err=True)


if __name__ == "__main__":
    main(prog_name="si-hub")
