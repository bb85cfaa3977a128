"""One training of one method on one task: its curve, kept as a file, so that a study that is stopped goes on."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.claim.methods import LINEAR, METHODS, RANK, attach
from benchmarks.claim.tasks import TASKS, Batch, Ground, Task
from examples.miniature.drawing import draw_prompts, unseen_scenes
from examples.miniature.judges import judge, load_judges
from examples.miniature.scenes import STYLES
from si_hub.storage.files import atomic_file
from si_hub.training.adapting import surveyed_modules
from si_hub.training.settings import TrainSettings
from si_hub.training.surveying import Pull, survey

BATCH = 8
POINTS, SEARCHED_POINTS = 10, 5
SURVEYED = TrainSettings().surveyed
DRAWN = 40
#: The seed whose adapters are kept, for pictures and routers.
PICTURED = 1


def steps_of(task: str, method: str) -> int:
    """Optimiser steps of a method on a task."""
    return round(TASKS[task].steps * METHODS[method].longer)


@dataclass(frozen=True)
class Wanted:
    """A run that is wanted; also the name of its file.

    Args:
        task, method: names of them.
        rate: peak learning rate.
        seed: of training pictures, noise and the adapter's first numbers.
        role: whose unseen pictures it is measured on: ``search`` or ``report``.
        step: what the search chose; the run ends there, and is measured there alone. 0: all of the task's steps.
        whole: all of the task's steps all the same, measured along, with pictures drawn and judged after ``step``.
    """

    task: str
    method: str
    rate: float
    seed: int
    role: str
    step: int = 0
    whole: bool = False

    @property
    def points(self) -> set[int]:
        """Steps after which the error is measured: the search asks less often, and not what is forgotten."""
        steps = steps_of(self.task, self.method)
        if self.step and not self.whole:
            return {self.step}
        count = POINTS if self.step else SEARCHED_POINTS
        return {round(steps * (k + 1) / count) for k in range(count)}

    @property
    def file(self) -> str:
        told = "-".join(str(value) for value in asdict(self).values())
        return "".join(letter if letter.isalnum() or letter in "-._" else "_" for letter in told) + ".json"


@dataclass(frozen=True)
class Ran:
    """A run that is done.

    Args:
        curve: (step, error on unseen pictures of the task, error on plain ones).
        numbers: trained parameters.
        step_ms: median time of a step.
        seconds: processor time of everything.
        alignment, style: what the judges say of drawn pictures, where some were drawn.
    """

    curve: tuple[tuple[int, float, float], ...]
    numbers: int
    step_ms: float
    seconds: float
    alignment: float | None = None
    style: float | None = None

    def at(self, step: int) -> tuple[float, float]:
        """Both errors after a step."""
        return next((own, plain) for at, own, plain in self.curve if at == step)


@cache
def ground() -> Ground:
    """The process's own."""
    return Ground()


@lru_cache(maxsize=2)
def pulls_of(task: Task, seed: int) -> dict[str, Pull]:
    """What a survey of a task's training pictures finds, as `si-hub train` makes it."""
    here = ground()
    unet = here.pipe.unet

    def losses() -> Iterator[Any]:
        for step in range(SURVEYED // BATCH):
            # Steps beyond the training's own: other noise.
            yield lambda step=step: _loss(here, unet, here.batch(task, task.steps + step, seed, BATCH))

    settings = TrainSettings.of({"ranks": "fitted", "rank": RANK})
    return survey(surveyed_modules(unet, settings), losses(), 2 * RANK, seed=seed)


def _loss(here: Ground, unet: nn.Module, batch: Batch) -> Tensor:
    noisy, times, states, wanted = batch
    return F.mse_loss(unet(noisy, times, states).sample, wanted)


def run(wanted: Wanted, kept: Path | None = None) -> Ran:
    """Train; the leaves after ``wanted.step`` are written to a file where one is named."""
    started, here, task = time.process_time(), ground(), TASKS[wanted.task]
    steps = steps_of(wanted.task, wanted.method)
    unet, leaves = _attached(wanted)
    probes = here.probes(task, wanted.role)
    optimizer = torch.optim.AdamW(leaves, lr=wanted.rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    average = [leaf.detach().clone() for leaf in leaves]
    longest = max(0.0, 1.0 - 20.0 / steps)
    curve: list[tuple[int, float, float]] = []
    took: list[float] = []
    judged: tuple[float | None, float | None] = (None, None)
    for step in range(max(wanted.points)):
        start = time.perf_counter()
        rise = min(1.0, (step + 1) / max(1.0, 0.05 * steps))
        for group in optimizer.param_groups:
            group["lr"] = wanted.rate * rise * 0.5 * (1.0 + math.cos(math.pi * step / steps))
        batch = here.batch(task, step, wanted.seed, BATCH)
        between = time.perf_counter()
        loss = _loss(here, unet, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(leaves, 1.0)
        optimizer.step()
        share = min(longest, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(average, [leaf.detach() for leaf in leaves], 1.0 - share)
        took.append(time.perf_counter() - (between if task.teacher else start))
        if step + 1 in wanted.points or step + 1 == wanted.step:
            held = [leaf.detach().clone() for leaf in leaves]
            _put(leaves, average)
            if step + 1 in wanted.points:
                own, plain = probes[0].error(unet), probes[1].error(unet) if wanted.step else math.nan
                curve.append((step + 1, own, plain))
            if step + 1 == wanted.step and wanted.whole:
                judged = _judge(here, task, unet)
            if step + 1 == wanted.step and kept is not None:
                save_file({str(place): leaf.detach() for place, leaf in enumerate(leaves)}, kept)
            _put(leaves, held)
    numbers = sum(leaf.numel() for leaf in leaves)
    seconds = time.process_time() - started
    return Ran(tuple(curve), numbers, 1000 * sorted(took)[len(took) // 2], seconds, *judged)


def _attached(wanted: Wanted) -> tuple[Any, list[nn.Parameter]]:
    """The U-Net with an adapter as it is before its first step, and what is trained of it."""
    here, method = ground(), METHODS[wanted.method]
    pulls: Mapping[str, Pull] = pulls_of(TASKS[wanted.task], wanted.seed) if method.fitted else {}
    return attach(method, here.pipe.unet, pulls, wanted.seed)


def trained(wanted: Wanted, folder: Path) -> Any:
    """The U-Net of a finished run as it was after the chosen step."""
    unet, leaves = _attached(wanted)
    values = load_file(_leaves_file(wanted, folder))
    _put(leaves, [values[str(place)] for place in range(len(leaves))])
    return unet


def _leaves_file(wanted: Wanted, folder: Path) -> Path:
    return (folder / wanted.file).with_suffix(".safetensors")


@torch.no_grad()
def _put(leaves: list[nn.Parameter], values: list[Tensor]) -> None:
    for leaf, value in zip(leaves, values, strict=True):
        leaf.copy_(value)


def _judge(here: Ground, task: Task, unet: Any) -> tuple[float, float]:
    """Alignment and style score of pictures drawn for held-out prompts, each style in its turn."""
    from examples.miniature.checkpoints import HERE

    wanted = unseen_scenes(DRAWN)
    words = [task.styles[k % len(task.styles)] for k in range(DRAWN)]
    prompts = [scene.prompt(word if task.told else None) for scene, word in zip(wanted, words, strict=True)]
    pictures = draw(here, unet, prompts)
    judges = load_judges(HERE / "judges.safetensors")
    seen = judges(pictures)["style"].argmax(1)
    right = [int(index) == STYLES.index(word) for index, word in zip(seen, words, strict=True)]
    return judge(judges, pictures, wanted).alignment, sum(right) / len(right)


def draw(here: Ground, unet: Any, prompts: list[str]) -> Tensor:
    """Pictures of the base's pipeline with another U-Net in it, ``[prompts, 3, 32, 32]``."""
    own = here.pipe.unet
    here.pipe.unet = unet
    try:
        with torch.no_grad():
            return draw_prompts(here.pipe, prompts)
    finally:
        here.pipe.unet = own


def kept_run(wanted: Wanted, folder: Path) -> Ran:
    """A run's result from its file, or made now."""
    file = folder / wanted.file
    if file.exists():
        told = json.loads(file.read_text(encoding="utf-8"))
        return Ran(tuple((int(a), float(b), float(c)) for a, b, c in told.pop("curve")), **told)
    file.parent.mkdir(parents=True, exist_ok=True)
    ran = run(wanted, _leaves_file(wanted, folder) if wanted.step and wanted.seed == PICTURED else None)
    with atomic_file(file, True) as out:
        out.write(json.dumps(asdict(ran)).encode())
    return ran


def set_up() -> None:
    """What a worker process begins with."""
    os.environ["OMP_NUM_THREADS"] = "1"
    ground()


__all__ = [
    "LINEAR",
    "PICTURED",
    "Ran",
    "Wanted",
    "draw",
    "ground",
    "kept_run",
    "pulls_of",
    "set_up",
    "steps_of",
    "trained",
]
