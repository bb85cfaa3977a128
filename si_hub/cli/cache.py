"""`si-hub cache`."""

from __future__ import annotations

import click

from si_hub.cli.group import main
from si_hub.cli.options import as_json
from si_hub.cli.printing import show


@main.command("cache")
@click.option("--empty", is_flag=True, help="Throw away all that no run is using.")
@as_json
def cache_command(empty: bool, json_: bool) -> None:
    """Show what is kept of surveys of models that were distilled, and of adapters that were converted while loading.

    Surveys make a second budget for the same pair a matter of seconds. At most four stay beside those of a run, and at
    most 32 GiB of them; of conversions 8 GiB. What was not used for longest goes first.

    \b
    Examples:
      si-hub cache
      si-hub cache --empty
    """
    from si_hub.caches import empty_caches, list_caches

    if empty:
        empty_caches()
    show(list_caches(), json_)
