"""The page of all commands, as they describe themselves: ``python -m website.commands build/commands.md``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from si_hub.cli import main

HEAD = """# Commands

Every command as `--help` has it. Results go to stdout, everything else to stderr; `--json` is for scripts; exit codes
are those of [Troubleshooting](../TROUBLESHOOTING.md). `python -m si_hub` is `si-hub` where that is not on the path.
"""


def describe(name: str, command: click.Command) -> str:
    """The help of a command, 100 characters wide, under its name."""
    told = click.Context(command, info_name=name, terminal_width=100, max_content_width=100).get_help()
    return f"## {name}\n\n```text\n{told}\n```\n"


def page() -> str:
    """The whole page, in Markdown."""
    own = describe("si-hub", main)
    rest = [describe(f"si-hub {name}", command) for name, command in sorted(main.commands.items())]
    return "\n".join([HEAD, own, *rest])


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(), encoding="utf-8")
