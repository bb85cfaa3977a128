"""Runs `si-hub distill --method trained` again and again, each time killed at a random moment, and then to the end.

``python -m tests.distill.killing FOLDER ARGUMENT...`` prints what happened as JSON. Time is counted in function calls,
Python's and C's, in each phase of the work: a slow machine changes no moment, and every phase has its share of them.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from si_hub import format as file_format
from si_hub.cli import main
from si_hub.distill.methods.calibrated import Calibration
from si_hub.distill.survey.stages import Survey
from si_hub.distill.training.lessons import LessonPool
from si_hub.training.loop import _Run
from si_hub.work.folder import Work
from tests.killing import Clock, Fork, kill_self

#: The phases of a run, and the functions that are all of each.
PHASES: dict[str, list[Callable[..., Any]]] = {
    "survey": [Survey.findings, Survey.measure],
    "choosing": [Calibration.wanted],
    "walking": [LessonPool._hold],
    "training": [_Run._backward],
    "measuring": [_Run.measure],
    "saving": [_Run.save],
    "judging": [Calibration.outcome],
    "writing": [file_format.write],
}
#: When the runs are killed, in this order.
KILLS = ("survey", "survey", "walking", "measuring", "training", "saving", "training", "saving", "judging", "writing")


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


def killed(folder: Path, command: list[str]) -> dict[str, Any]:
    """Everything that is there to judge."""

    def told(name: str) -> list[str]:
        return [*command, "-o", str(folder / name), "--set", f"cache={folder / f'{name}-cache'}", "--json"]

    def undisturbed() -> None:
        clock = Clock(PHASES)
        run(told("whole"), clock, folder / "whole.pt")
        (folder / "counts.json").write_text(json.dumps(clock.counts), encoding="utf-8")

    assert Fork(undisturbed).wait() == 0
    counts = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
    draw, times, ends, left, steps = random.Random(0), Counter(KILLS), [], [], []
    for phase in KILLS:
        # Every run goes on where the one before it was: no kill may ask for more than what is sure to come.
        moment = draw.randint(1, counts[phase] // (times[phase] + 1))
        ends.append(Fork(lambda: run(told("killed"), Clock(PHASES, (phase, moment), kill_self))).wait())  # noqa: B023
        work = folder / ".killed.work"
        left.append([path.name for path in [*work.glob("*"), *folder.glob("killed-cache/*/*")]])
        checkpoint = work / "training.pt"
        steps.append(torch.load(checkpoint, weights_only=True)["course"][0] if checkpoint.exists() else [])
    assert Fork(lambda: run(told("killed"), Clock(PHASES), folder / "killed.pt")).wait() == 0
    return {"counts": counts, "ends": ends, "left": left, "losses": steps}


if __name__ == "__main__":
    torch.set_num_threads(1)
    result = killed(Path(sys.argv[1]), sys.argv[2:])
    print(json.dumps(result))
