"""Surveys in the cache: which of them go when another comes."""

from __future__ import annotations

import os
from pathlib import Path

from si_hub.distill.survey.kept import find_surveys, make_room
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


def test_surveys_go_too_where_they_have_more_bytes_than_they_may(tmp_path: Path) -> None:
    for when, name in enumerate(["old", "new"]):
        (used(tmp_path / name, when).folder / "a.safetensors").write_bytes(bytes(1000))
    own = used(tmp_path / "own", 9)
    assert [(one.folder.name, one.size > 1000) for one in find_surveys(tmp_path)] == [
        ("own", False), ("new", True), ("old", True),
    ]  # fmt: skip
    make_room(own, 4, room=1500)
    assert {path.name for path in tmp_path.iterdir()} == {"own", "new"}
