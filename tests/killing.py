"""Processes that a test ends from outside, at a moment of its choice, and what they leave behind.

`Command` is a command in a process of its own; `Fork` is work in a fork of this process, where imports are paid once.
Both are ended the same way: `end(moment, signal)`, where the moment is so many seconds from now, or something that has
become so: a file is there, a request has come. `Clock` counts a third kind of moment, function calls, inside a process
that is to end itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

#: The end that no process can put off; Windows has one signal for it and for every other end.
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
#: Seconds from now, or what has become so.
Moment = float | Callable[[], Any]
#: How long anything may be waited for, in seconds.
PATIENCE = 1800.0


class Process(ABC):
    """A process that runs until it is done, or until it is ended."""

    pid: int

    @abstractmethod
    def poll(self) -> int | None:
        """How it ended, its exit code or minus the signal that ended it; None while it runs."""

    def said(self) -> str:
        """What it said until its end, for the message of a test that it fails."""
        return ""

    def wait(self) -> int:
        """How it ended, when it has."""
        self._until(lambda: self.poll() is not None)
        code = self.poll()
        assert code is not None
        return code

    def await_moment(self, moment: Moment) -> None:
        """Until the moment; it must not have ended before something has become so."""
        if not callable(moment):
            time.sleep(moment)
            return
        self._until(lambda: moment() or self.poll() is not None)
        if not moment():
            raise AssertionError(f"it ended, {self.wait()}, before it was to be ended: {self.said()}")

    def send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def end(self, moment: Moment, number: signal.Signals = KILL) -> int:
        """A signal at a moment, and how it ended."""
        self.await_moment(moment)
        self.send(number)
        return self.wait()

    @staticmethod
    def _until(reached: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not reached():
            assert time.monotonic() < deadline, f"nothing happened in {PATIENCE:.0f} s"
            time.sleep(0.001)


class Command(Process):
    """A command in a process of its own. It can be told lines; what it says goes to files: no pipe is ever full."""

    def __init__(
        self, command: Iterable[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self._out, self._err = (tempfile.NamedTemporaryFile("w+", encoding="utf-8") for _ in range(2))  # noqa: SIM115
        self._child = subprocess.Popen(
            [*map(str, command)], stdin=subprocess.PIPE, stdout=self._out, stderr=self._err, text=True, cwd=cwd, env=env
        )
        self.pid = self._child.pid
        self._read = 0
        self._kept: tuple[str, str] | None = None

    def poll(self) -> int | None:
        return self._child.poll()

    def wait(self) -> int:
        assert self._child.stdin is not None
        self._child.stdin.close()
        code = self._child.wait(PATIENCE)
        if self._kept is None:
            self._kept = self.out(), self.err()
            self._out.close()
            self._err.close()
        return code

    def said(self) -> str:
        return self.out() + self.err()

    def out(self) -> str:
        """Everything that it wrote to stdout until now."""
        return self._kept[0] if self._kept else Path(self._out.name).read_text(encoding="utf-8")

    def err(self) -> str:
        """Everything that it wrote to stderr until now."""
        return self._kept[1] if self._kept else Path(self._err.name).read_text(encoding="utf-8")

    def read_line(self) -> str:
        """The next line of its stdout, with its end, or all that is left when it has ended."""
        self._until(lambda: "\n" in self.out()[self._read :] or self.poll() is not None)
        line, end, _ = self.out()[self._read :].partition("\n")
        self._read += len(line + end)
        return line + end

    def tell(self, line: str = "") -> None:
        """A line to its stdin."""
        assert self._child.stdin is not None
        self._child.stdin.write(f"{line}\n")
        self._child.stdin.flush()


def python(*arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Command:
    """Python in a process of its own."""
    return Command([sys.executable, *arguments], cwd=cwd, env=env)


class Fork(Process):
    """Work in a fork of this process; it exits with 0 when it is done and with 1 where it raises."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            try:
                work()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)

    def poll(self) -> int | None:
        if self._code is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if ended else None
        return self._code


def seconds_of(work: Callable[[], object]) -> float:
    """How long work takes in a fork of this process."""
    began = time.perf_counter()
    assert Fork(work).wait() == 0
    return time.perf_counter() - began


def kill_self(*_: object) -> None:
    """The end of this very process, as by ``kill -9``."""
    os.kill(os.getpid(), KILL)


class Clock:
    """A profile function that counts calls, Python's and C's, in each phase of work; does something at one of them.

    A slow machine changes no moment of such a clock, and every phase has its share of them. ``phases`` names the
    functions that are all of each phase.
    """

    def __init__(
        self,
        phases: Mapping[str, Iterable[Callable[..., Any]]],
        alarm: tuple[str, int] | None = None,
        then: Callable[[], None] | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._alarm, self._then = alarm, then
        self._phase_of: dict[CodeType, str] = {
            function.__code__: phase for phase, functions in phases.items() for function in functions
        }
        self._phase, self._depth = "", 0

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event in ("call", "return") and frame.f_code in self._phase_of:
            if event == "call":
                self._phase = self._phase if self._depth else self._phase_of[frame.f_code]
            self._depth += 1 if event == "call" else -1
        if self._depth and event in ("call", "c_call"):
            self.counts[self._phase] += 1
            if self._then and (self._phase, self.counts[self._phase]) == self._alarm:
                self._then()


def is_half_written(path: Path) -> bool:
    """Whether a name is one that files have while they are being written."""
    return path.name.startswith(".si-hub-") and path.name.endswith(".tmp")


def sweep(folder: Path, whole: Path) -> int:
    """How many half-written files a killed writer left beside ``whole``, where nothing else is; they are removed."""
    left = [path for path in folder.iterdir() if path != whole]
    assert [path for path in left if not is_half_written(path)] == []
    for path in left:
        path.unlink()
    return len(left)
