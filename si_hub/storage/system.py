"""What only some operating systems have, each with a twin for those without it; chosen once, by what ``os`` has.

Nothing else in the package names what POSIX alone has, so that whatever works here works on Windows too. A file opened
by Python is never inherited by child processes, on any system, and so needs no flag for that.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

#: File systems without hard links answer os.link with one of these.
_NO_LINKS = frozenset(
    {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL}
)
#: Windows alone translates the ends of lines where it is not told that a file is no text.
_BINARY: int = getattr(os, "O_BINARY", 0)

#: glibc's number of the setting: from which size a block is the system's own, and stays so.
_M_MMAP_THRESHOLD = -3

#: Seeking and reading are two calls where there is no call for both; one thread at a time makes both.
_SEEKING = threading.Lock()


def create_file(path: Path) -> int:
    """A descriptor of a new file, to read and write; FileExistsError where there is one.

    0o666 and not a private mode: the user's umask decides, as for any file he writes.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)


def _open_unblocked(path: Path) -> int:
    # Without O_NONBLOCK, opening a named pipe would wait for a writer for ever.
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | _BINARY)


def _open_looked_at(path: Path) -> int:
    # Windows opens no folder and says only that it may not; who looks first knows what it is.
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(code, os.strerror(code), str(path))
    return os.open(path, os.O_RDONLY | _BINARY)


#: ``open_file(path)``: a read-only descriptor, at once, of whatever is there; folders and devices may be an OSError.
open_file = _open_unblocked if hasattr(os, "O_NONBLOCK") else _open_looked_at


def _pick_in_place(descriptor: int, size: int, at: int) -> bytes:
    return os.pread(descriptor, size, at)


def _pick_after_seeking(descriptor: int, size: int, at: int) -> bytes:
    with _SEEKING:
        os.lseek(descriptor, at, os.SEEK_SET)
        return os.read(descriptor, size)


#: ``read_at(descriptor, size, at)``: up to ``size`` bytes from byte ``at`` on; none at the end of the file.
read_at = _pick_in_place if hasattr(os, "pread") else _pick_after_seeking


def _read_in_place(descriptor: int, room: memoryview, at: int) -> int:
    return os.preadv(descriptor, [room], at)


def _read_and_copy(descriptor: int, room: memoryview, at: int) -> int:
    piece = read_at(descriptor, len(room), at)
    room[: len(piece)] = piece
    return len(piece)


#: ``read_into(descriptor, room, at)``: fills ``room`` (bytes) from byte ``at`` on, or its beginning; how many bytes.
read_into = _read_in_place if hasattr(os, "preadv") else _read_and_copy


def _write_in_place(descriptor: int, data: memoryview, at: int) -> int:
    return os.pwrite(descriptor, data, at)


def _write_after_seeking(descriptor: int, data: memoryview, at: int) -> int:
    with _SEEKING:
        os.lseek(descriptor, at, os.SEEK_SET)
        return os.write(descriptor, data)


_write_some = _write_in_place if hasattr(os, "pwrite") else _write_after_seeking


def write_at(descriptor: int, data: memoryview, at: int) -> None:
    """Write all of ``data`` (bytes) from byte ``at`` on, however little the system writes at once."""
    while data:
        count = _write_some(descriptor, data, at)
        data, at = data[count:], at + count


def claim_file(descriptor: int) -> bool:
    """Take an open file for this process, until it is closed or the process ends; False where another one has it.

    True too where the system or the file system has no such locks; Windows removes no file that is open anyway.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def reserve_space(descriptor: int, size: int) -> None:
    """Take the space on the disk now: a full disk is an error before the work, and writing is faster."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        # File systems that cannot reserve say so; they report a full disk when it is full.
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP):
            raise


def return_large_memory() -> None:
    """Have the C library give blocks of 4 MiB and more back to the system when they are freed; where it is not
    glibc, nothing.

    For a process of our own: glibc learns from the first large block that is freed to keep such blocks, and holds
    gigabytes in pieces after weights of many sizes have come and gone.
    """
    with suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 4 << 20)


def drop_cached(descriptor: int, start: int, length: int) -> None:
    """Let go of the memory that holds these bytes, those that are on the disk already; the others begin to go there."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_DONTNEED)


def link_file(source: Path, target: Path) -> bool:
    """Give a file a second name, unless something has it; False where the file system has no links.

    Raises:
        FileExistsError: something has the name.
    """
    if not hasattr(os, "link"):
        return False
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk, where the system does that for folders."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder; the file itself is synced and in place.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def link_or_move(source: Path, path: Path, temporary: Path) -> None:
    """Let ``path`` be ``source``: by a relative link, else by a second name, else by moving it there.

    Windows has links for administrators alone, and second names on NTFS for everybody.
    """
    linked = _place(os.symlink, os.path.relpath(source, path.parent), temporary, path)
    if not linked and not _place(os.link, source, temporary, path):
        os.replace(source, path)


def _place(make: Callable[[Any, Path], object], end: str | Path, temporary: Path, path: Path) -> bool:
    try:
        make(end, temporary)
        os.replace(temporary, path)
    except (OSError, NotImplementedError):
        return False
    finally:
        with suppress(OSError):
            os.unlink(temporary)
    return True
