"""A report's file: whole or not at all, the same bytes every time, and refused before any work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from si_hub.errors import FileAccessError, MissingFile, UsageError
from si_hub.report.distillation import Distillation
from si_hub.report.writing import check_report_file, write_report
from tests.report.world import full_report


@pytest.mark.parametrize("suffix", [".png", ".html"])
def test_the_same_report_is_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    for name in "ab":
        write_report(full_report(), tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("report.pdf", UsageError, r"expected .html or .png, found .pdf"),
        ("report", UsageError, "found no suffix"),
        ("folder.html", FileAccessError, "is a folder"),
        ("there.html", FileAccessError, "already exists.*overwrite=True"),
        ("nowhere/report.html", MissingFile, "folder does not exist"),
    ],
)
def test_what_cannot_be_written_is_said_before_any_work(
    tmp_path: Path, name: str, error: type[Exception], said: str
) -> None:
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "there.html").write_text("mine", encoding="utf-8")
    with pytest.raises(error, match=said):
        check_report_file(tmp_path / name)
    with pytest.raises(error, match=said):
        write_report(Distillation("title"), tmp_path / name)
    assert (tmp_path / "there.html").read_text(encoding="utf-8") == "mine"


def test_without_matplotlib_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # Python's own way to say: not installed
    with pytest.raises(UsageError, match=r'needs matplotlib. Install it: pip install "si-hub\[report\]"'):
        write_report(full_report(), tmp_path / "report.html")
    assert not list(tmp_path.iterdir())
