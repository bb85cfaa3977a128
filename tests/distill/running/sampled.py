"""States of the tuned model's sampling, a few."""

from __future__ import annotations

from typing import Any

from si_hub.distill.running.runner import Runner
from si_hub.distill.running.trajectory import pick, trajectories


def states(runner: Runner, count: int = 3) -> Any:
    runner.mix(1.0)
    steps = trajectories(runner, ["a small red star, on sand"], [0], 4)
    runner.mix(0.0)
    return pick(steps, count, 0.0, [0])
