"""Tokens as values that do not show themselves."""

from __future__ import annotations

from typing import Any


class Token(str):
    """A token whose repr, which tracebacks with local variables print, is not it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def conceal(token: str | bool | None) -> Token | bool | None:
    """The same token, which shows itself to nobody who prints it as a local variable."""
    return Token(token) if isinstance(token, str) else token


def conceal_in(options: dict[str, Any]) -> None:
    """Conceal the token among a call's keywords: a decorator's frame holds them while the call lasts."""
    if "token" in options:
        options["token"] = conceal(options["token"])
