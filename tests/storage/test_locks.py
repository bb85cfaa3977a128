"""Locks are files that one process has at a time, and that nobody has when it ends."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from si_hub.storage.locks import holding, let_go, take_lock
from tests.killing import python

HOLDER = """
import sys
from pathlib import Path
from si_hub.storage.locks import take_lock
lock = take_lock(Path(sys.argv[1]))
print("held" if lock else "refused", flush=True)
sys.stdin.read()
"""


def test_a_lock_is_had_once_and_leaves_nothing(tmp_path: Path) -> None:
    first = take_lock(tmp_path / "a.lock")
    assert first is not None
    assert take_lock(tmp_path / "a.lock") is None
    let_go(first)
    assert list(tmp_path.iterdir()) == []
    second = take_lock(tmp_path / "a.lock")
    assert second is not None
    let_go(second)


def test_another_process_is_refused_and_its_end_frees_the_lock(tmp_path: Path) -> None:
    child = python("-c", HOLDER, tmp_path / "a.lock")
    assert child.read_line() == "held\n"
    assert take_lock(tmp_path / "a.lock") is None
    refused = python("-c", HOLDER, tmp_path / "a.lock")
    assert refused.read_line() == "refused\n"
    assert refused.wait() == 0
    child.end(0)
    lock = take_lock(tmp_path / "a.lock", wait=10)
    assert lock is not None
    let_go(lock)


def test_a_lock_that_cannot_be_made_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        take_lock(tmp_path / "file" / "a.lock")


def test_who_waits_has_it_alone_though_its_file_is_removed_each_time(tmp_path: Path) -> None:
    """Four threads add to a number by reading and writing it; without the lock, additions are lost."""
    numbers, interval = [0], sys.getswitchinterval()

    def add() -> None:
        for _ in range(25):
            with holding(tmp_path / "a.lock"):
                seen = numbers[0]
                threading.Event().wait(0.0005)
                numbers[0] = seen + 1

    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=add) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert numbers == [100]
    assert list(tmp_path.iterdir()) == []
