"""Options and calls as whoever reads an error writes them: ``--force`` at the command line, ``force=True`` in Python.

A text names an option once, by its Python keyword; which of the two it says is decided when it is written, by whether
the command line is what is running.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

from si_hub.tokens import conceal_in

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: Options that the command line writes otherwise than ``--`` and their Python keyword.
_SHORT = {"output": "-o"}
#: Commands whose Python function is not ``si_hub.`` and their name.
_FUNCTIONS = {"curve": "si_hub.distill.curve", "distill": "si_hub.distill.distill"}
#: Functions that the command line has no command of their own for.
_COMMANDS = {"curve": "distill --curve"}

#: Whether what runs is a command: a thread's own, so that Python beside one speaks Python (`keep_words`).
_command_line: ContextVar[bool] = ContextVar("_command_line", default=False)
#: Keywords that whoever called has under other names.
_names: ContextVar[Mapping[str, str]] = ContextVar("_names", default=MappingProxyType({}))


@contextmanager
def at_command_line() -> Iterator[None]:
    """While the body runs, texts speak the command line's words instead of Python's; in a thread by `keep_words`."""
    token = _command_line.set(True)
    try:
        yield
    finally:
        _command_line.reset(token)


def keep_words(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """``function`` for another thread, or for later: its texts speak as they do where this is called."""
    command_line, names = _command_line.get(), _names.get()

    @wraps(function)
    def speak(*arguments: _P.args, **options: _P.kwargs) -> _T:
        tokens = _command_line.set(command_line), _names.set(names)
        try:
            return function(*arguments, **options)
        finally:
            _command_line.reset(tokens[0])
            _names.reset(tokens[1])

    return speak


@contextmanager
def say_instead(**keywords: str) -> Iterator[None]:
    """While the body runs, Python's texts say other keywords: a function's that hands its own on under others.

    A switch that is another one's opposite has a value: ``allow_partial="strict=False"``.
    """
    token = _names.set({**_names.get(), **keywords})
    try:
        yield
    finally:
        _names.reset(token)


def rename_keywords(**keywords: str) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """A decorator: within the function texts say these keywords, as `say_instead` does.

    Functions that it is given, such as ``progress=``, are its caller's, and speak the caller's words.
    """

    def decorate(function: Callable[_P, _T]) -> Callable[_P, _T]:
        @wraps(function)
        def speak(*arguments: _P.args, **options: _P.kwargs) -> _T:
            given: dict[str, Any] = options
            conceal_in(given)
            for name, value in given.items():
                if callable(value) and not isinstance(value, type):
                    given[name] = keep_words(value)
            with say_instead(**keywords):
                return function(*arguments, **options)

        return speak

    return decorate


def option(keyword: str, value: str = "") -> str:
    """An option that takes a value: ``--base``, ``base=``; with a value ``--method svd``, ``method='svd'``.

    A value in capitals, such as ``FOLDER``, stands for one.
    """
    if _command_line.get():
        return f"{_flag(keyword)} {value}".rstrip()
    return f"{_say_keyword(keyword)}={_python(value) if value else ''}"


def switch(keyword: str, *, python: str | None = None) -> str:
    """An option without a value: ``--force``, ``force=True``.

    Args:
        keyword: the command line's, with ``_`` for ``-``.
        python: the function's, where that is another.
    """
    if _command_line.get():
        return _flag(keyword)
    said = _say_keyword(python or keyword)
    return said if "=" in said else f"{said}=True"


def setting(keyword: str, value: str) -> str:
    """A setting of one method alone: ``--set pieces=N``, ``pieces=N``."""
    return f"--set {keyword}={value}" if _command_line.get() else f"{keyword}={_python(value)}"


def label(keyword: str, *, python: str | None = None) -> str:
    """An option's name alone, as errors name what they are about: ``--size``, ``size``."""
    return _flag(keyword) if _command_line.get() else _say_keyword(python or keyword)


def call(command: str, *arguments: object, **options: str | None) -> str:
    """What does something: ``si-hub convert lora.safetensors --base sdxl``, ``si_hub.convert('lora.safetensors', …)``.

    A stranger's name among the arguments is quoted, and no command of its own. Options that are None are left out.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if _command_line.get():
        pairs = [part for name, value in given.items() for part in (_flag(name), shlex.quote(value))]
        return " ".join(
            ["si-hub", _COMMANDS.get(command, command), *(shlex.quote(str(argument)) for argument in arguments), *pairs]
        )
    written = [_python(str(argument)) for argument in arguments]
    written += [f"{name}={_python(value)}" for name, value in given.items()]
    return f"{_FUNCTIONS.get(command, f'si_hub.{command}')}({', '.join(written)})"


def list_call(command: str, python: str) -> str:
    """What lists all that an option may be: ``si-hub convert --help``, ``si_hub.architectures.names()``."""
    return f"si-hub {command} --help" if _command_line.get() else python


def _say_keyword(keyword: str) -> str:
    return _names.get().get(keyword, keyword)


def _flag(keyword: str) -> str:
    return _SHORT.get(keyword, f"--{keyword.replace('_', '-')}")


def _python(value: str) -> str:
    """A value as Python writes it; one in capitals stands for some value, and a number is one."""
    return value if (value.isupper() and value.isidentifier()) or value.isdecimal() else repr(value)


def command_text(words: Sequence[str], options: Mapping[str, object], settings: Mapping[str, object]) -> str:
    """A call at the command line, quoted for a shell, whoever reads it: what a report tells others to type.

    Args:
        words: the program, the command and its arguments.
        options: by flag, without dashes; None is not said.
        settings: what goes by ``--set``.
    """
    told = [f" --{name} {shlex.quote(str(value))}" for name, value in options.items() if value is not None]
    told += [f" --set {name}={shlex.quote(str(value))}" for name, value in settings.items()]
    return shlex.join(words) + "".join(told)
