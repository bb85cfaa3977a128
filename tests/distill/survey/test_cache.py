"""Where a survey is kept: a folder of its own for everything that it depends on."""

from __future__ import annotations

from pathlib import Path

import pytest

from si_hub.distill.request import Request
from si_hub.distill.survey.cache import _cache_folder


def test_another_plan_has_another_folder_in_the_named_or_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    named, own = Request(cache=tmp_path / "named"), Request()
    first, again, other = (_cache_folder(plan, named).folder for plan in ({"a": 1}, {"a": 1}, {"a": 2}))
    assert first == again != other
    assert first.parent == other.parent == tmp_path / "named"
    assert _cache_folder({"a": 1}, own).folder == tmp_path / "home" / "si-hub" / "distill" / first.name
