"""What commands print: results to stdout, everything else to stderr, as text that steers no terminal."""

from __future__ import annotations

from typing import Any

import click

from si_hub.foreign import json_text, make_lines_safe, make_safe


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
