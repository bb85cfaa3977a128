"""What an operating system says of a path, as an error of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from si_hub.errors import FileAccessError, MissingFile, SiHubError


@contextmanager
def tell_access_errors() -> Iterator[None]:
    """Errors that name a path become `MissingFile` or `FileAccessError`; also a decorator of what a user calls."""
    try:
        yield
    except SiHubError:
        raise
    except OSError as error:
        if error.filename is None:
            raise
        if isinstance(error, FileNotFoundError):
            raise MissingFile("no such file or folder", file=error.filename) from error
        problem = error.strerror or type(error).__name__
        raise FileAccessError(f"cannot be used: {problem}", file=error.filename) from error
