"""`si-hub pull` and `si-hub push`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from si_hub.cli.group import main
from si_hub.cli.options import GivenPath, as_json
from si_hub.cli.printing import say, show
from si_hub.errors import UsageError


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
