"""What an operating system says of a path, as an error of ours."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import TracebackType
from typing import ParamSpec, TypeVar

from si_hub.errors import FileAccessError, MissingFile, SiHubError
from si_hub.tokens import conceal_in

_P = ParamSpec("_P")
_T = TypeVar("_T")


class tell_access_errors:  # noqa: N801 - it is called as what it does
    """Errors that name a path become `MissingFile` or `FileAccessError`; also a decorator of what a user calls."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, SiHubError) or not isinstance(error, OSError) or error.filename is None:
            return
        if isinstance(error, FileNotFoundError):
            raise MissingFile("no such file or folder", file=error.filename) from error
        problem = error.strerror or type(error).__name__
        raise FileAccessError(f"cannot be used: {problem}", file=error.filename) from error

    def __call__(self, function: Callable[_P, _T]) -> Callable[_P, _T]:
        @wraps(function)
        def tell(*arguments: _P.args, **options: _P.kwargs) -> _T:
            conceal_in(options)
            with self:
                return function(*arguments, **options)

        return tell
