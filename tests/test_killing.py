"""The harness that ends processes: a test that kills must fail where nothing was killed, or not when it should be."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.killing import Clock, Command, Fork, kill_self, python, seconds_of, sweep
from tests.systems import posix_alone


def test_what_ends_before_its_moment_fails_the_test_with_what_it_said() -> None:
    child = python("-c", "import sys; sys.exit('no such file')")
    with pytest.raises(AssertionError, match=r"it ended, 1, before it was to be ended: no such file"):
        child.end(lambda: False)


@posix_alone
def test_a_command_is_ended_by_the_signal_that_was_sent_at_the_moment_that_was_waited_for(tmp_path: Path) -> None:
    there = tmp_path / "there"
    child = python("-c", f"open({str(there)!r}, 'w'); import time; time.sleep(600)")
    assert child.end(there.exists, signal.SIGTERM) == -signal.SIGTERM
    began = time.monotonic()
    assert python("-c", "import time; time.sleep(600)").end(0.2) == -signal.SIGKILL
    assert 0.2 <= time.monotonic() - began < 60


def test_a_command_is_told_lines_and_what_it_says_outlives_it() -> None:
    child = Command([sys.executable, "-uc", "import sys; [print(line.upper(), end='') for line in sys.stdin]"])
    child.tell("one")
    assert child.read_line() == "ONE\n"
    child.tell("two")
    assert child.read_line() == "TWO\n"
    assert child.wait() == 0
    assert (child.out(), child.err(), child.read_line()) == ("ONE\nTWO\n", "", "")


@posix_alone
def test_a_fork_ends_as_its_work_does(tmp_path: Path) -> None:
    assert Fork((tmp_path / "made").mkdir).wait() == 0
    assert (tmp_path / "made").is_dir()
    assert Fork((tmp_path / "made").mkdir).wait() == 1
    assert Fork(kill_self).wait() == -signal.SIGKILL
    assert 0.2 <= seconds_of(lambda: time.sleep(0.2)) < 60


def write_digit(file: int, digit: int) -> None:
    os.pwrite(file, b"%d" % digit, 0)


def read_digit(file: int) -> bytes:
    return os.pread(file, 1, 0)


@posix_alone
def test_a_clock_rings_at_one_call_of_one_phase(tmp_path: Path) -> None:
    """A digit is two calls: that of the function, when nothing is written yet, and that of `os.pwrite`."""
    phases: dict[str, list[Callable[..., Any]]] = {"writing": [write_digit], "reading": [read_digit]}
    place = os.open(tmp_path / "digit", os.O_CREAT | os.O_RDWR)

    def work(clock: Clock) -> None:
        sys.setprofile(clock)
        for digit in range(1, 10):
            write_digit(place, digit)
        read_digit(place)
        sys.setprofile(None)

    whole = Clock(phases)
    work(whole)
    assert whole.counts == {"writing": 18, "reading": 2}
    for alarm, last in {("writing", 3): b"1", ("writing", 17): b"8", ("reading", 1): b"9"}.items():
        assert Fork(lambda: work(Clock(phases, alarm, kill_self))).wait() == -signal.SIGKILL  # noqa: B023
        assert read_digit(place) == last
    assert Fork(lambda: work(Clock(phases, ("writing", 19), kill_self))).wait() == 0
    os.close(place)


def test_what_a_killed_writer_leaves_is_swept_and_a_stranger_is_not(tmp_path: Path) -> None:
    whole, half = tmp_path / "x.safetensors", tmp_path / ".si-hub-1234.tmp"
    whole.touch()
    half.touch()
    assert sweep(tmp_path, whole) == 1
    assert list(tmp_path.iterdir()) == [whole]
    (tmp_path / "y.safetensors").touch()
    with pytest.raises(AssertionError):
        sweep(tmp_path, whole)
