"""``si-hub cache``: what is there, and an end to it; nothing of anybody else's goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from huggingface_hub import constants

from si_hub.cli import main
from si_hub.work.folder import Work


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("SI_HUB_CONVERTED", raising=False)
    for name in ("one", "two"):
        Work(tmp_path / "si-hub" / "distill" / name).open({"survey": name})
    (tmp_path / "si-hub" / "distill" / "mine").mkdir()
    (tmp_path / "hub" / "si-hub" / "converted" / "notes").mkdir(parents=True)
    kept = tmp_path / "hub" / "si-hub" / "converted" / ("0" * 40)
    kept.mkdir()
    (kept / "styleinject.safetensors").write_bytes(bytes(2000))
    return tmp_path


def told(*words: str) -> dict[str, dict[str, int]]:
    done = CliRunner().invoke(main, ["cache", *words, "--json"], catch_exceptions=False)
    found: dict[str, dict[str, int]] = json.loads(done.stdout)
    return found


def test_what_is_kept_is_shown_and_thrown_away_but_for_what_is_in_use(home: Path) -> None:
    found = told()
    assert found["surveys"]["count"] == 2
    assert (found["conversions"]["count"], found["conversions"]["size"]) == (1, 2000)
    busy = Work(home / "si-hub" / "distill" / "two")
    busy.keep()
    assert told("--empty")["surveys"]["count"] == 1
    assert {path.name for path in (home / "si-hub" / "distill").iterdir()} == {"two", "mine"}
    assert [path.name for path in (home / "hub" / "si-hub" / "converted").iterdir()] == ["notes"]


def test_a_cache_that_is_switched_off_is_said_to_be(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SI_HUB_CONVERTED", "off")
    assert told()["conversions"]["folder"] is None
    text = CliRunner().invoke(main, ["cache"], catch_exceptions=False).stdout
    assert "surveys: 2, " in text
    assert "conversions: 0, 0 B of 8.6 GB, switched off" in text
