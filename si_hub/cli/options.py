"""Values and options that commands share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from textwrap import wrap
from typing import Any, TypeVar

import click

JSON = "si_hub.json"

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


def as_styles(_: click.Context, param: click.Parameter, text: str | None) -> dict[str, float] | None:
    """``ink=0.7,neon=0.3`` as weights by name."""
    if text is None:
        return None
    weights: dict[str, float] = {}
    for item in text.split(","):
        name, equals, value = item.strip().partition("=")
        try:
            weights[name] = float(value)
        except ValueError:
            equals = ""
        if not name or not equals:
            raise click.BadParameter(f"{item!r} is not NAME=WEIGHT", param=param)
    return weights


class NamesBases(click.Command):
    """A command whose help ends with the names of all base models."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from si_hub.architectures import names

        # A name is kept whole: click's own lines break at hyphens.
        width = formatter.width - 4
        with formatter.section("Base models"):
            for line in wrap(", ".join(names()), width, break_on_hyphens=False):
                formatter.write(f"  {line}\n")


def as_words(_: click.Context, __: click.Parameter, text: str | None) -> tuple[str, ...]:
    """``ink style, by anna`` as words between commas."""
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())
