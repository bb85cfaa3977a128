"""Files opened with typed errors, and written whole or not at all: beside the target, synced, put in place at once."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from si_hub.errors import FileAccessError, MissingFile, SiHubError
from si_hub.storage.leftovers import TEMPORARY_PREFIX, TEMPORARY_SUFFIX, sweep_leftovers
from si_hub.storage.system import claim_file, create_file, link_file, open_file, sync_folder
from si_hub.words import switch


@contextmanager
def atomic_file(path: str | Path, overwrite: bool) -> Iterator[BinaryIO]:
    """A new file, open for reading and writing, that appears at ``path`` whole when the block ends, or never.

    Any exception, Ctrl-C included, removes the temporary; a killed process leaves at worst a temporary that cannot be
    taken for a result, and that a later call removes once it is old. An existing file is never replaced unless
    ``overwrite`` says so, even one that appears while the block runs. A symbolic link is replaced, not followed;
    devices, pipes and sockets are never replaced.

    Raises:
        MissingFile: the folder does not exist.
        FileAccessError: a folder or an existing file is in the way, no permission, no space.
    """
    path = Path(path)
    temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
    ours = (None, str(path), str(temporary), str(path.parent))
    try:
        _check_target(path, overwrite)
        sweep_leftovers(path.parent)
        with open(create_file(temporary), "w+b") as file:
            claim_file(file.fileno())  # so that no sweep takes it for a dead one's
            yield file
            file.flush()
            os.fsync(file.fileno())
        _put_in_place(temporary, path, overwrite)
        sync_folder(path.parent)
    except OSError as error:
        # What the block itself does with other files is not this file's error.
        if isinstance(error, SiHubError) or error.filename not in ours:
            raise
        raise FileAccessError(f"cannot be written: {error.strerror or error}", file=path) from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def open_regular(path: Path) -> int:
    """A read-only descriptor of a regular file; typed errors for everything that is none."""
    try:
        descriptor = open_file(path)
    except FileNotFoundError as error:
        raise MissingFile("no such file", file=path) from error
    except IsADirectoryError as error:
        raise _is_folder(path) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FileAccessError(f"cannot be opened: {reason}", file=path) from error
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise _is_folder(path)
    raise FileAccessError("is not a regular file", file=path)


def _is_folder(path: Path) -> FileAccessError:
    return FileAccessError("is a folder", file=path, hint="Name a .safetensors file in it.")


def _check_target(path: Path, overwrite: bool) -> None:
    if "\0" in str(path):
        raise FileAccessError("a file name cannot hold a zero byte", file=path)
    if not path.parent.is_dir():
        raise MissingFile("the folder does not exist", file=path.parent, hint="Create it first.")
    if path.is_dir() and not path.is_symlink():
        raise FileAccessError("is a folder", file=path, hint="Name a file in it.")
    if not overwrite and os.path.lexists(path):
        raise _in_the_way(path)
    _check_kind(path)


def _check_kind(path: Path) -> None:
    """Raise where something is that a file must not take the place of: a device, a pipe, a socket."""
    mode = path.lstat().st_mode if os.path.lexists(path) else stat.S_IFREG
    if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
        raise FileAccessError("is not a regular file, and is not replaced", file=path, hint="Name another.")


def is_part(path: Path, given: str | Path) -> bool:
    """Whether a file is what was given, or is there and lies in a folder that was."""
    place = Path(given)
    # A name that cannot be is nobody's, and is told of where it is used.
    with suppress(OSError, ValueError):
        if path.exists() and place.exists():
            return path.samefile(place) or path.resolve().is_relative_to(place.resolve())
        return path.resolve() == place.resolve()
    return False


def _put_in_place(temporary: Path, path: Path, overwrite: bool) -> None:
    if not overwrite:
        try:
            if link_file(temporary, path):
                return
        except FileExistsError as error:
            raise _in_the_way(path) from error
        # Without links nothing is atomic and exclusive at once; being whole matters more than this last moment.
        if os.path.lexists(path):
            raise _in_the_way(path)
    _check_kind(path)
    os.replace(temporary, path)


def _in_the_way(path: Path) -> FileAccessError:
    return FileAccessError("exists already", file=path, hint=f"Replace it with {switch('force', python='overwrite')}.")
