"""Runs `si-hub distill --method trained` again and again, each time killed at a random moment, and then to the end.

``python -m tests.distill.killing FOLDER ARGUMENT...`` prints what happened as JSON. Time is counted in function calls,
Python's and C's, in each phase of the work: a slow machine changes no moment, and every phase has its share of them.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

from si_hub import format as file_format
from si_hub.cli import main
from si_hub.distill.methods.calibrated import Calibration
from si_hub.distill.survey.stages import Survey
from si_hub.distill.training.lessons import LessonPool
from si_hub.distill.training.loop import _Run
from si_hub.distill.work.folder import Work

#: The phases of a run, and the functions that are all of each.
PHASES: dict[str, list[Callable[..., Any]]] = {
    "survey": [Survey.findings, Survey.measure],
    "choosing": [Calibration.for_budget],
    "walking": [LessonPool._need],
    "training": [_Run._backward],
    "measuring": [_Run.measure],
    "saving": [_Run.save],
    "judging": [Calibration.outcome],
    "writing": [file_format.write],
}
#: When the runs are killed, in this order.
KILLS = ("survey", "survey", "walking", "measuring", "training", "saving", "training", "saving", "judging", "writing")


class Clock:
    """Counts calls in each phase; does something at one of them."""

    def __init__(self, alarm: tuple[str, int] | None = None, then: Callable[[], None] | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self._alarm, self._then = alarm, then
        self._phase_of: dict[CodeType, str] = {
            function.__code__: phase for phase, functions in PHASES.items() for function in functions
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


def forked(work: Callable[[], None]) -> int:
    """How the work ended in a process of its own: 0, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(arguments: list[str], clock: Clock, curve: Path | None = None) -> None:
    """The command, with its last checkpoint copied before it is thrown away."""
    clear = Work.clear

    def copying(work: Work) -> None:
        if curve and (work.folder / "training.pt").exists():
            shutil.copy(work.folder / "training.pt", curve)
        clear(work)

    Work.clear = copying  # type: ignore[assignment, method-assign]
    sys.setprofile(clock)
    main(arguments, standalone_mode=False)
    sys.setprofile(None)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(folder: Path, command: list[str]) -> dict[str, Any]:
    """Everything that is there to judge."""

    def told(name: str) -> list[str]:
        return [*command, "-o", str(folder / name), "--set", f"cache={folder / f'{name}-cache'}", "--json"]

    def undisturbed() -> None:
        clock = Clock()
        run(told("whole"), clock, folder / "whole.pt")
        (folder / "counts.json").write_text(json.dumps(clock.counts))

    assert forked(undisturbed) == 0
    counts = json.loads((folder / "counts.json").read_text())
    draw, times, ends, left, steps = random.Random(0), Counter(KILLS), [], [], []
    for phase in KILLS:
        # Every run goes on where the one before it was: no kill may ask for more than what is sure to come.
        moment = draw.randint(1, counts[phase] // (times[phase] + 1))
        ends.append(forked(lambda: run(told("killed"), Clock((phase, moment), kill))))  # noqa: B023
        work = folder / ".killed.work"
        left.append([path.name for path in [*work.glob("*"), *folder.glob("killed-cache/*/*")]])
        checkpoint = work / "training.pt"
        steps.append(torch.load(checkpoint, weights_only=True)["course"][0] if checkpoint.exists() else [])
    assert forked(lambda: run(told("killed"), Clock(), folder / "killed.pt")) == 0
    return {"counts": counts, "ends": ends, "left": left, "losses": steps}


if __name__ == "__main__":
    torch.set_num_threads(1)
    result = killed(Path(sys.argv[1]), sys.argv[2:])
    print(json.dumps(result))
