"""Locks between processes: files, each held until its process lets go of it or ends, in whatever way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout


def take_lock(file: Path, wait: float = 0) -> BaseFileLock | None:
    """The lock of this name, ours until `let_go` or the end of the process; None where another has it.

    Args:
        file: the lock; made where it is not there, and its folder too.
        wait: seconds to wait for it; -1 for as long as it takes.

    Raises:
        OSError: no permission, a file system without locks, a folder that is thrown away at this moment.
    """
    lock = FileLock(file, timeout=wait, thread_local=False)
    try:
        lock.acquire(poll_interval=0.01)
    except Timeout:
        return None
    return lock


def let_go(lock: BaseFileLock) -> None:
    """Let go of a lock, and remove its file.

    POSIX removes it while it is held: who waits for it notices that the name has gone, and makes another. Windows
    removes nothing that is open, and so only what nobody waits for, once it is closed.
    """
    if isinstance(lock, SoftFileLock):
        # Where the system has no locks, being there is the lock, and letting go of it is to remove it.
        lock.release()
        return
    file = Path(lock.lock_file)
    try:
        file.unlink(missing_ok=True)
        lock.release()
    except OSError:
        lock.release()
        with suppress(OSError):
            file.unlink(missing_ok=True)


@contextmanager
def holding(file: Path) -> Iterator[None]:
    """A lock for as long as the block runs, waited for; errors as of `take_lock`."""
    lock = take_lock(file, wait=-1)
    assert lock is not None
    try:
        yield
    finally:
        let_go(lock)
