"""Surveys in the cache: which of them go when another comes."""

from __future__ import annotations

import os
from pathlib import Path

from si_hub.distill.survey.cache import make_room
from si_hub.work.folder import Work


def used(folder: Path, when: int) -> Work:
    """A survey that was last used then."""
    work = Work(folder)
    work.open({"survey": folder.name})
    os.utime(folder / "plan.json", (when, when))
    return work


def test_the_surveys_that_were_not_used_for_longest_go_unless_a_run_uses_them(tmp_path: Path) -> None:
    own, busy, *_ = [used(tmp_path / name, when) for when, name in enumerate(["own", "busy", "old", "older", "new"])]
    (tmp_path / "somebody else's").mkdir()
    busy.keep()
    make_room(own, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"own", "busy", "older", "new", "somebody else's"}
    make_room(own, 0)
    assert {path.name for path in tmp_path.iterdir()} == {"own", "busy", "somebody else's"}
