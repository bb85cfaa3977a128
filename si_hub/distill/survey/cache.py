"""Surveys of pairs in the cache: taken up again, used by several runs at once, the oldest thrown away."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from si_hub.distill.pair.matching import Pair
from si_hub.distill.request import Request
from si_hub.distill.running import prompts
from si_hub.distill.running.runner import Runner, dtype_of
from si_hub.distill.survey.kept import KEPT, make_room, survey_home
from si_hub.distill.survey.plan import Tries
from si_hub.distill.survey.stages import Survey, survey_plan
from si_hub.work.folder import Work
from si_hub.work.processes import processes


def survey_of(
    pair: Pair, request: Request, pipeline: Any = None, limit: int | None = None, tries: Tries | None = None
) -> tuple[Survey, str]:
    """A pair's survey, in the cache, and where its prompts are from.

    Args:
        pair: base and tuned model.
        request: what is wanted.
        pipeline: the base's, where it is loaded already.
        limit, tries: as `Survey` has them.

    Raises:
        CannotRun: the base's pipeline cannot be run.
    """
    settings, options = request.survey, request.call.keywords()
    crew = processes(request.device)
    runner = Runner(
        pair, pipeline, device=crew.device, dtype=dtype_of(settings.precision), options=options,
        memory=settings.memory,
    )  # fmt: skip
    given, held_out, source = prompts.choose_prompts(
        request.prompts, runner.pipeline.tokenizer, settings.trajectories, settings.held_out, request.seed
    )
    # What is fitted to is the same however long.
    stages = survey_plan(pair, (given, held_out), replace(settings, memory=runner.memory, passes=0), options)
    work = _cache_folder(stages, request)
    if crew.main:
        work.keep()
        make_room(work, KEPT + len(request.branches) - 1)
    crew.wait()
    work.open(stages)
    tell = request.tell if crew.main else None
    survey = Survey(runner, given, held_out, settings, work, crew, request.progress, limit, tell, tries or Tries())
    return survey, source


def _cache_folder(stages: Mapping[str, Any], request: Request) -> Work:
    """Where a survey is kept: a folder of its own in the cache."""
    name = hashlib.sha256(json.dumps(stages, sort_keys=True).encode()).hexdigest()[:32]
    return Work((request.cache or survey_home()) / name, "cache")
