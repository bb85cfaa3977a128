"""Where a survey is kept: a folder of its own for everything that it depends on."""

from __future__ import annotations

from pathlib import Path

import pytest

from si_hub.distill.request import Request, SurveyOptions
from si_hub.distill.survey.cache import _cache_folder, survey_of
from tests.miniature import INK, open_pair, write_prompts


def test_another_plan_has_another_folder_in_the_named_or_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    named, own = Request(cache=tmp_path / "named"), Request()
    first, again, other = (_cache_folder(plan, named).folder for plan in ({"a": 1}, {"a": 1}, {"a": 2}))
    assert first == again != other
    assert first.parent == other.parent == tmp_path / "named"
    assert _cache_folder({"a": 1}, own).folder == tmp_path / "home" / "si-hub" / "distill" / first.name


def test_what_auto_becomes_is_what_it_is_when_it_is_said(tmp_path: Path) -> None:
    """And a survey from files is none of a model that was held: half precision rounds the one and not the other."""
    prompts = write_prompts(tmp_path)
    wanted = [
        Request(prompts=prompts, cache=tmp_path / "cache", survey=SurveyOptions(memory=said))
        for said in ("auto", "all", "files")
    ]
    folders = [survey_of(open_pair(INK), one)[0].work.folder for one in wanted]
    assert folders[0] == folders[1] != folders[2]
