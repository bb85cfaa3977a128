"""Captions as people keep them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from si_hub.errors import FormatError, MissingFile, NotUtf8, UsageError
from si_hub.training.dataset import Example, name_styles, read_examples


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "pictures"
    made.mkdir()
    for name in ("a.png", "b.jpg", "c.webp"):
        Image.new("RGB", (8, 8)).save(made / name)
    return made


def captions(found: list[Example]) -> dict[str, str]:
    return {one.file.name: one.caption for one in found}


def test_texts_beside_pictures_come_first_then_the_table_then_the_one_for_all(folder: Path) -> None:
    (folder / "a.txt").write_text("a fox\n", encoding="utf-8")
    rows = [{"file_name": "a.png", "text": "not this"}, {"file_name": "b.jpg", "text": "an owl"}]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert captions(read_examples([folder], "a thing")) == {"a.png": "a fox", "b.jpg": "an owl", "c.webp": "a thing"}
    with pytest.raises(UsageError, match=r"c\.webp: has no caption.*caption="):
        read_examples([folder])


def test_a_csv_of_imagefolder(folder: Path) -> None:
    (folder / "metadata.csv").write_text(
        'file_name,text\na.png,"a fox, red"\nb.jpg,owl\nc.webp,cat\n', encoding="utf-8"
    )
    assert captions(read_examples([folder]))["a.png"] == "a fox, red"


@pytest.mark.parametrize("table", ['{"file_name": 3}', "nothing", '["a.png"]', "[" * 100_000])
def test_a_table_that_is_none_is_told_by_its_line(folder: Path, table: str) -> None:
    (folder / "metadata.jsonl").write_text(f"\n{table}", encoding="utf-8")
    with pytest.raises(FormatError, match=r"metadata\.jsonl.*line 2"):
        read_examples([folder], "x")


def test_a_row_without_its_picture_is_an_error(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "d.png", "text": "x"}), encoding="utf-8")
    with pytest.raises(MissingFile, match=r"d\.png: is in the table of captions and not in the folder"):
        read_examples([folder], "x")


def test_broken_pictures_and_texts_are_named(folder: Path) -> None:
    (folder / "a.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(NotUtf8, match=r"a\.txt"):
        read_examples([folder], "x")
    (folder / "a.txt").unlink()
    (folder / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(FormatError, match=r"b\.jpg: is no picture"):
        read_examples([folder], "x")
    with pytest.raises(MissingFile, match="no folder with pictures"):
        read_examples([folder / "none"], "x")


def test_folders_of_styles_are_numbered_and_named(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "neon"
    other.mkdir()
    Image.new("RGB", (8, 8)).save(other / "z.png")
    found = read_examples([folder, other], "x")
    assert [one.style for one in found] == [0, 0, 0, 1]
    assert name_styles([folder, other]) == ("pictures", "neon")
    with pytest.raises(UsageError, match="two folders of styles have one name"):
        name_styles([folder, folder])
