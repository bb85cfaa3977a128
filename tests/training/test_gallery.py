"""Pictures in a folder and their captions."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from si_hub.errors import FormatError, MissingFile, NotUtf8, UsageError
from si_hub.training.gallery import branch_of, captioned_pictures, check_pictures


def test_a_caption_that_is_no_text_is_told(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(NotUtf8, match=r"a\.txt: is no UTF-8 text"):
        check_pictures(tmp_path)


def make(folder: Path, *names: str) -> Path:
    for name in names:
        Image.new("RGB", (8, 8)).save(folder / name)
    return folder


def test_captions_are_texts_beside_the_pictures_or_one_for_all(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b.png")
    (tmp_path / "a.txt").write_text(" a fox\n", encoding="utf-8")
    found = captioned_pictures(tmp_path, "a drawing", "ink")
    assert [(one.file.name, one.caption, one.branch) for one in found] == [
        ("a.png", "a fox", "ink"), ("b.png", "a drawing", "ink"),
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"1 of 2 pictures have no caption, such as b\.png"):
        captioned_pictures(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "metadata.jsonl",
            '{"file_name": "b.png", "text": "second"}\n\n{"file_name": "x/a.png", "caption": "first"}\n',
        ),
        ("metadata.csv", "file_name,text\nb.png,second\nx/a.png,first\n"),
    ],
)
def test_a_table_says_which_pictures_there_are_and_what_they_show(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "x").mkdir()
    make(tmp_path, "b.png", "x/a.png", "unnamed.png")
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert [(one.file.name, one.caption) for one in captioned_pictures(tmp_path)] == [
        ("b.png", "second"), ("a.png", "first"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "error", "said"),
    [
        ('{"file_name": "../a.png"}', FormatError, "outside the folder"),
        ('{"file_name": "/etc/passwd"}', FormatError, "outside the folder"),
        ('{"file_name": "gone.png"}', MissingFile, "not there"),
        ('{"text": "nothing"}', FormatError, "names no picture"),
        ("[1]", FormatError, "no JSON object"),
        ("{", FormatError, "no JSON object"),
    ],
)
def test_a_table_that_names_what_it_must_not_is_told(
    tmp_path: Path, row: str, error: type[Exception], said: str
) -> None:
    (tmp_path / "metadata.jsonl").write_text(row, encoding="utf-8")
    with pytest.raises(error, match=said):
        captioned_pictures(tmp_path, "all")


def test_a_branch_is_called_as_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ink").mkdir()
    monkeypatch.chdir(tmp_path / "ink")
    assert branch_of(".") == branch_of(tmp_path / "ink") == branch_of(f"{tmp_path}/ink/") == "ink"
