"""What ``si-hub train BASE PICTURES`` makes with nothing else said, beside a LoRA by the same command."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any

from benchmarks.claim.runs import ground, set_up
from benchmarks.claim.study import REPORTED
from benchmarks.claim.tasks import TASKS, Task
from examples.miniature.checkpoints import HERE
from examples.miniature.render import render
from examples.miniature.scenes import scenes
from si_hub.storage.files import atomic_file

#: What is said besides the base and the pictures, by the command.
COMMANDS: Mapping[str, Mapping[str, Any]] = {"si-hub train": {}, "si-hub train --method lora": {"method": "lora"}}
TASK = TASKS["small-16"]


def write_lessons(folder: Path, task: Task, seed: int) -> Path:
    """The pictures of a task's learner under a seed, as files with their prompts beside them."""
    folder.mkdir()
    for number, style in enumerate(task.styles):
        for place, scene in enumerate(islice(scenes((700 + seed) * 101 + number), task.count)):
            file = folder / f"{style}-{place:04}.png"
            render(scene, style, seed=place).save(file)
            file.with_suffix(".txt").write_text(scene.prompt(style if task.told else None), encoding="utf-8")
    return folder


def plain_error(task: Task, seed: int, told: Mapping[str, Any], role: str = "report") -> float:
    """Error on unseen pictures of the adapter that the command writes, loaded as a user loads it."""
    import si_hub

    here = ground()
    with tempfile.TemporaryDirectory() as name:
        pictures, file = write_lessons(Path(name) / "pictures", task, seed), Path(name) / "out.safetensors"
        si_hub.train(HERE / "base", pictures, file, seed=seed, **told)
        si_hub.enable()
        here.pipe.load_styleinject_weights(file, adapter_name="plain")
        try:
            return here.probes(task, role)[0].error(here.pipe.unet)
        finally:
            here.pipe.unload_styleinject_weights()


def plain_errors(folder: Path, workers: int) -> dict[str, list[float]]:
    """By command, the error of every reported seed; what is on disk is taken from there."""
    wanted = list(product(COMMANDS, REPORTED))
    with ProcessPoolExecutor(workers, initializer=set_up) as pool:
        errors = list(pool.map(partial(_kept_error, folder=folder), wanted))
    return {command: [error for (one, _), error in zip(wanted, errors, strict=True) if one == command]
            for command in COMMANDS}  # fmt: skip


def _kept_error(wanted: tuple[str, int], folder: Path) -> float:
    command, seed = wanted
    file = folder / f"plain-{command.rpartition(' ')[2]}-{seed}.json"
    if not file.exists():
        error = plain_error(TASK, seed, COMMANDS[command])
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(file, True) as out:
            out.write(json.dumps(error).encode())
    return float(json.loads(file.read_text(encoding="utf-8")))


__all__ = ["COMMANDS", "plain_error", "plain_errors", "write_lessons"]
