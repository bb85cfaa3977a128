"""Which temporaries a sweep takes; what killed processes leave is in `tests/attacks`."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from si_hub.storage.leftovers import OLD, sweep_leftovers
from si_hub.storage.system import claim_file
from tests.systems import IS_ROOT, posix_alone

NAME = ".si-hub-0123456789abcdef.tmp"


@pytest.mark.parametrize(("age", "stays"), [(0, True), (OLD - 60, True), (OLD + 60, False), (-OLD, True)])
def test_a_day_without_a_byte_is_old(age: float, stays: bool, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"half")
    os.utime(tmp_path / NAME, (time.time() - age,) * 2)
    sweep_leftovers(tmp_path)
    assert (tmp_path / NAME).exists() is stays


def test_a_folder_that_is_not_there_has_none(tmp_path: Path) -> None:
    sweep_leftovers(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.skipif(IS_ROOT, reason="root may do everything")
def test_what_may_not_be_removed_stays_without_a_word(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"half")
    os.utime(tmp_path / NAME, (0, 0))
    tmp_path.chmod(0o500)
    try:
        sweep_leftovers(tmp_path)
    finally:
        tmp_path.chmod(0o700)
    assert (tmp_path / NAME).exists()


@posix_alone
def test_a_file_is_claimed_by_one_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"")
    with file.open("rb") as one, file.open("rb") as other:
        assert claim_file(one.fileno())
        assert not claim_file(other.fileno())
        one.close()
        assert claim_file(other.fileno())
