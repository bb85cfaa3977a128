"""Another system, as far as Python shows it: what POSIX alone has is gone, and texts are cp1252 where nothing is said.

Python imports this module by itself, before anything else, in every process whose PYTHONPATH names this folder:
``make test-platform`` runs the tests so. What Windows refuses is refused to the package alone, since the libraries that
it stands on choose their way by the name of the system.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import pathlib
import shutil
import sys
import warnings
from contextlib import suppress
from typing import Any

#: What of ``os`` the package and the tests could use, and Windows does not have.
GONE = (
    "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "fork", "forkpty", "geteuid", "getegid", "killpg", "lockf",
    "mkfifo", "mknod", "posix_fadvise", "posix_fallocate", "posix_spawn", "pread", "preadv", "pwrite", "pwritev",
    "readv", "sendfile", "wait4", "writev",
)  # fmt: skip
#: Modules of POSIX that the package and the tests could use; what else there is, installed libraries choose by name.
MISSING = ("fcntl", "pty")
DEFAULT = "cp1252"


def _asks_for_us(depth: int = 2) -> bool:
    """Whether the package called, itself or through pathlib or shutil."""
    frame = sys._getframe(depth)
    while frame.f_globals.get("__name__") in {"pathlib", "shutil", "contextlib"} and frame.f_back is not None:
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", "")).startswith("si_hub.")


def _is_in_use(path: Any) -> bool:
    """Whether this process has a file open or mapped."""
    real = os.path.realpath(path)
    if os.path.isdir(real):
        return False
    held: set[str] = set()
    for number in os.listdir("/proc/self/fd"):
        # Another thread may have closed it meanwhile.
        with suppress(FileNotFoundError):
            held.add(os.path.realpath(f"/proc/self/fd/{number}"))
    with _open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        held.update(line.rstrip("\n").split(maxsplit=5)[-1] for line in maps if "/" in line)
    return real in held


def _denied(path: Any) -> PermissionError:
    return PermissionError(errno.EACCES, "The process cannot access the file, it is used by another process", str(path))


def _refuse_in_use(call: Any, paths: tuple[int, ...]) -> Any:
    def refuse(*args: Any, **extra: Any) -> Any:
        if _asks_for_us():
            for place in paths:
                if not extra and _is_in_use(args[place]):
                    raise _denied(args[place])
        return call(*args, **extra)

    return refuse


def _open_no_folder(path: Any, *args: Any, **extra: Any) -> int:
    if _asks_for_us() and os.path.isdir(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return _os_open(path, *args, **extra)


def _make_no_link(source: Any, target: Any, *args: Any, **extra: Any) -> None:
    if _asks_for_us():
        raise OSError(errno.EPERM, "A required privilege is not held by the client", str(target))
    return _symlink(source, target, *args, **extra)


def _text_encoding(encoding: Any, stacklevel: int = 2) -> Any:
    return DEFAULT if encoding is None else encoding


def _open_text(
    file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None, *args: Any, **extra: Any
) -> Any:
    if "b" not in mode and encoding in (None, "locale"):
        encoding = DEFAULT
    return _open(file, mode, buffering, encoding, *args, **extra)


_open, _os_open, _symlink = io.open, os.open, os.symlink
if sys.platform == "linux":
    for name in GONE:
        if hasattr(os, name):
            delattr(os, name)
    for name in MISSING:
        sys.modules[name] = None  # type: ignore[assignment]
    # What stands on what is gone has another way where it is told so.
    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    shutil._USE_CP_SENDFILE = False  # type: ignore[attr-defined]
    os.open, os.symlink = _open_no_folder, _make_no_link  # type: ignore[assignment]
    os.replace = _refuse_in_use(os.replace, (0, 1))
    os.rename = _refuse_in_use(os.rename, (0, 1))
    os.unlink = os.remove = _refuse_in_use(os.unlink, (0,))
    io.text_encoding = pathlib.io.text_encoding = _text_encoding  # type: ignore[attr-defined]
    io.open = builtins.open = _open_text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It says that locks are of another kind here, which is what is wanted.
        import filelock  # noqa: F401
