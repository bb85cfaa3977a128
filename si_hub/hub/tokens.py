"""Tokens as values that do not show themselves."""

from __future__ import annotations


class Token(str):
    """A token whose repr, which tracebacks with local variables print, is not it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def conceal(token: str | bool | None) -> Token | bool | None:
    """The same token, which shows itself to nobody who prints it as a local variable."""
    return Token(token) if isinstance(token, str) else token
