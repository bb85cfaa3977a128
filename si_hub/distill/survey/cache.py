"""Surveys of pairs in the cache: taken up again, used by several runs at once, the oldest thrown away."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from si_hub.distill.pair.matching import Pair
from si_hub.distill.request import Request
from si_hub.distill.running import prompts
from si_hub.distill.running.runner import Runner
from si_hub.distill.survey.stages import Survey, survey_plan
from si_hub.work.folder import Work, discard
from si_hub.work.processes import processes

#: Surveys that stay in the cache, besides those of one run.
KEPT = 4


def survey_of(pair: Pair, request: Request, pipeline: Any = None, limit: int | None = None) -> tuple[Survey, str]:
    """A pair's survey, in the cache, and where its prompts are from.

    Args:
        pair: base and tuned model.
        request: what is wanted.
        pipeline: the base's, where it is loaded already.
        limit: as `Survey` has it.

    Raises:
        CannotRun: the base's pipeline cannot be run.
    """
    settings, options = request.survey, request.call.keywords()
    crew = processes(request.device)
    runner = Runner(pair, pipeline, device=crew.device, options=options)
    given, held_out, source = prompts.choose_prompts(
        request.prompts, runner.pipeline.tokenizer, settings.trajectories, settings.held_out, request.seed
    )
    stages = survey_plan(pair, (given, held_out), settings, options)
    work = _cache_folder(stages, request)
    if crew.main:
        work.keep()
        make_room(work, KEPT + len(request.branches) - 1)
    crew.wait()
    work.open(stages)
    return Survey(runner, given, held_out, settings, work, crew, request.progress, limit), source


def _cache_folder(stages: Mapping[str, Any], request: Request) -> Work:
    """Where a survey is kept: a folder of its own in the cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "si-hub" / "distill"
    name = hashlib.sha256(json.dumps(stages, sort_keys=True).encode()).hexdigest()[:32]
    return Work((request.cache or home) / name, "cache")


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
