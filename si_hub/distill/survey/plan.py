"""What a survey will take, said before it begins: calls of the denoiser, room on the disk, after a few calls the time.

A call is the denoiser asked for the noise in one state; gradients count as the calls that they cost.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from si_hub.distill.survey.cores import count_numbers
from si_hub.distill.survey.curvature import limit_of
from si_hub.distill.survey.moments import SKETCH
from si_hub.report.text import size_text

#: Calls after which the time is told.
ENOUGH = 10
#: States of a survey that adapters are fitted to, about.
LESSONS = 256


@dataclass(frozen=True, slots=True)
class Tries:
    """How many adapters are made of a survey, where a search takes all its tries and finds at the first precision.

    Attributes:
        measured: to see what they leave of the error.
        fitted: to what the tuned model predicts, where anything is.
    """

    measured: int = 1
    fitted: int = 1


@dataclass(frozen=True, slots=True)
class SurveyCost:
    """What a survey takes, and the adapters that are made of it.

    Attributes:
        calls: of the denoiser, by what they are for.
        kept: bytes that stay in the cache, about.
        passing: bytes that are there besides while moments are added up, about.
    """

    calls: dict[str, int]
    kept: int
    passing: int

    def as_text(self) -> str:
        """The plan as a line."""
        shares = ", ".join(f"{what} {count:,}" for what, count in self.calls.items())
        total = sum(self.calls.values())
        return (
            f"plan: about {total:,} calls of the denoiser ({shares}); {size_text(self.kept)} stay in the cache, "
            f"and {size_text(self.passing)} more while it works"
        )


def cost_of(survey: Any, held_out_states: int, chunks: int) -> SurveyCost:
    """What a survey takes that nothing is kept of, and the adapters after it.

    Args:
        survey: a `Survey` (``stages``, which imports this), nothing of which is done.
        held_out_states: of each trajectory that is measured on.
        chunks: parts that the states are cut into.
    """
    settings, runner = survey.settings, survey.runner
    walked = settings.sampling_steps * (2 if is_guided(runner.pipeline, runner.options) else 1)
    states, measured = len(survey.prompts) * settings.states, len(survey.held_out) * held_out_states
    backward = 2 if runner.blockwise else 1
    calls = {
        "walking": (len(survey.prompts) + len(survey.held_out)) * walked,
        "moments": states * (1 + backward),
        "effects": states * (3 + backward * settings.probes),
        "measuring": (2 + survey.tries.measured) * measured,
    }
    if settings.fits:
        lessons = len(lesson_rows(len(survey.prompts), settings.states))
        calls["fitting"] = lessons * (1 + survey.tries.fitted * settings.passes * (1 + backward))
    changes = survey.low_rank_changes()
    limit = limit_of(changes) if survey.limit is None else survey.limit
    numbers = columns = moments = 0
    for change in changes:
        out, width = change.matrix
        count = min(settings.pieces, out, width)
        taps = math.prod(change.shape[2:])
        numbers += count * (out + width) + count_numbers(count, width // taps, taps)
        columns += count
        moments += sum(side * (side if side <= max(limit, SKETCH) else SKETCH + 1) for side in (out, width))
    rows = states * settings.probes
    latents = 3 * runner.latent_numbers * (states + measured)
    chunks = min(chunks, -(-states // survey.batch))
    return SurveyCost(calls, 4 * (numbers + columns * rows + latents), 4 * moments * chunks)


def lesson_rows(trajectories: int, states: int) -> list[int]:
    """Which of a survey's states adapters are fitted to: one of so many, of each trajectory other ones.

    Args:
        trajectories: how many.
        states: of each, in the order of its sampling.
    """
    stride = max(1, trajectories * states // LESSONS)
    return [
        trajectory * states + state
        for trajectory in range(trajectories)
        for state in range(states)
        if (trajectory + state) % stride == 0
    ]


def is_guided(pipeline: Any, options: dict[str, Any]) -> bool:
    """Whether a pipeline asks its denoiser twice in each step."""
    given = inspect.signature(pipeline.__call__).parameters.get("guidance_scale")
    scale = options.get("guidance_scale", given.default if given is not None else 0)
    return hasattr(type(pipeline), "do_classifier_free_guidance") and isinstance(scale, int | float) and scale > 1


class Pace:
    """Says after `ENOUGH` calls of a denoiser how long all of them will take; then it is gone.

    Args:
        denoiser: whose calls are counted.
        total: calls, one state each.
        tell: called with a line.
        clock: seconds.
    """

    def __init__(
        self, denoiser: Any, total: int, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total, self.tell, self.clock = total, tell, clock
        self.calls = self.states = 0
        self.begin = 0.0
        self._handle = denoiser.register_forward_hook(self._count, with_kwargs=True)

    def _count(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        rows = next((len(one) for one in (*args, *kwargs.values()) if isinstance(one, Tensor) and one.ndim > 2), 1)
        self.calls += 1
        if self.calls == 1:
            # The first call also makes what the others use again.
            self.begin = self.clock()
            return
        self.states += rows
        if self.calls >= ENOUGH:
            self._handle.remove()
            each = (self.clock() - self.begin) / self.states
            self.tell(f"{each:.2g} s a call: about {duration(each * self.total)} for all of them")


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
