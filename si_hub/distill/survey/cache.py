"""Surveys of pairs in the cache: taken up again, used by several runs at once, the oldest thrown away."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from si_hub.distill.pair.matching import Pair
from si_hub.distill.request import CALLS, Request, calls
from si_hub.distill.running import prompts
from si_hub.distill.running.runner import Runner
from si_hub.distill.survey.stages import Settings, Survey, plan
from si_hub.distill.training.options import Wanted
from si_hub.distill.work.folder import Work, discard
from si_hub.distill.work.processes import processes
from si_hub.errors import UsageError

#: Surveys that stay in the cache, besides those of one run.
KEPT = 4


def surveyed(pair: Pair, request: Request, pipeline: Any = None, limit: int | None = None) -> tuple[Survey, str]:
    """A pair's survey, in the cache, and where its prompts are from.

    Args:
        pair: base and tuned model.
        request: what is wanted.
        pipeline: the base's, where it is loaded already.
        limit: as `Survey` has it.

    Raises:
        UsageError: an option that the method does not know.
        CannotRun: the base's pipeline cannot be run.
    """
    settings, options = _settings(request)
    crew = processes()
    runner = Runner(pair, pipeline, device=crew.device, options=options)
    told, held_out, source = prompts.chosen(
        request.prompts, runner.pipeline.tokenizer, settings.trajectories, settings.held_out, request.seed
    )
    stages = plan(pair, (told, held_out), settings, options)
    work = _cached(stages, request)
    if crew.main:
        work.keep()
        make_room(work, KEPT + len(request.branches) - 1)
    crew.wait()
    work.open(stages)
    return Survey(runner, told, held_out, settings, work, crew, request.progress, limit), source


def _settings(request: Request) -> tuple[Settings, dict[str, Any]]:
    """Settings of the survey, and keywords of the pipeline's call.

    Raises:
        UsageError: an option that is not known, or not a positive number.
    """
    known = {field.name for field in fields(Settings)} - {"seed"} | set(CALLS) | {"cache"}
    for name, value in request.options.items():
        if name not in known:
            trained = name in {field.name for field in fields(Wanted)}
            raise UsageError(
                "the method calibrated has no such option", key=name, expected=", ".join(sorted(known)),
                hint="The method trained has it." if trained else None,
            )  # fmt: skip
        if name != "cache" and not (isinstance(value, int | float) and value > 0):
            raise UsageError("is a positive number", key=name, found=value)
        if name not in {*CALLS, "cache"} and isinstance(value, float) and not value.is_integer():
            raise UsageError("is a whole number, 1 or more", key=name, found=value)
    given = {name: int(value) for name, value in request.options.items() if name in {f.name for f in fields(Settings)}}
    settings = replace(Settings(seed=request.seed), **given)
    if request.rank is not None:
        settings = replace(settings, pieces=max(settings.pieces, 2 * request.rank))
    return settings, calls(request.options)


def _cached(stages: Mapping[str, Any], request: Request) -> Work:
    """Where a survey is kept: a folder of its own in the cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "si-hub" / "distill"
    root = Path(str(request.options.get("cache") or home))
    return Work(root / hashlib.sha256(json.dumps(stages, sort_keys=True).encode()).hexdigest()[:32])


def make_room(work: Work, others: int) -> None:
    """Throw away the surveys beside this one that were not used for longest, but for so many, and those in use."""
    found: list[tuple[float, Path]] = []
    for path in work.folder.parent.iterdir():
        # Another run may throw one away meanwhile.
        with suppress(FileNotFoundError, NotADirectoryError):
            if path != work.folder:
                found.append(((path / "plan.json").stat().st_mtime, path))
    for _, old in sorted(found, reverse=True)[others:]:
        discard(old)
