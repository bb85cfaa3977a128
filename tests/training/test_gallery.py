"""Pictures in a folder and their captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from si_hub.errors import FormatError, MissingFile, NotUtf8, UsageError
from si_hub.training.gallery import as_seen, branch_of, captioned_pictures, check_pictures


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


def test_a_caption_is_a_text_whatever_ends_lines_in_it(tmp_path: Path) -> None:
    make(tmp_path, "a.png")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa fox")  # As editors on Windows write it.
    assert captioned_pictures(tmp_path)[0].caption == "a fox"
    (tmp_path / "metadata.csv").write_text('file_name,text\na.png,"a fox\nat night"\n', encoding="utf-8")
    assert captioned_pictures(tmp_path)[0].caption == "a fox\nat night"
    # JSON has them as they are; Python's splitlines takes them for ends.
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a\u2028fox\u0085"}', encoding="utf-8")
    assert captioned_pictures(tmp_path)[0].caption == "a\u2028fox"


def test_a_table_without_captions_is_told_what_columns_they_stand_in(tmp_path: Path) -> None:
    make(tmp_path, "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "words": "a fox"}', encoding="utf-8")
    with pytest.raises(UsageError, match=r"text or caption or prompt in each row of metadata\.jsonl"):
        captioned_pictures(tmp_path)
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "metadata.csv").write_text(f"file_name,text\na.png,{'x' * 200_000}\n", encoding="utf-8")
    with pytest.raises(FormatError, match=r"line 2: is no table: field larger"):
        captioned_pictures(tmp_path)


def test_a_picture_with_more_text_than_pillow_reads_is_told(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    words = PngInfo()
    words.add_text("workflow", "x" * (3 << 20), zip=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=words)
    with pytest.raises(FormatError, match=r"a\.png: is no picture that can be read"):
        captioned_pictures(tmp_path, "all")


def test_sixteen_bits_are_eight_and_what_is_transparent_is_white(tmp_path: Path) -> None:
    deep = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.new("RGBA", (1, 1), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("RGBA", (1, 1), (255, 0, 0, 128)).save(tmp_path / "half.png")
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 200, 0, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "palette.png", transparency=b"\x00\xff")
    frames = [Image.new("RGB", (1, 1), colour) for colour in ("blue", "red")]
    frames[0].save(tmp_path / "moving.png", save_all=True, append_images=frames[1:])
    seen = {}
    for file in tmp_path.iterdir():
        with Image.open(file) as picture:
            seen[file.stem] = np.asarray(as_seen(picture)).tolist()
    assert seen["deep"] == [[[value] * 3 for value in (0, 1, 128, 255)]]
    assert seen["clear"] == [[[255, 255, 255]]]
    assert seen["half"] == [[[255, 127, 127]]]  # 255 · (1 − 128/255)
    assert seen["palette"] == [[[255, 255, 255], [200, 0, 0]]]
    assert seen["moving"] == [[[0, 0, 255]]]


def test_a_branch_is_called_as_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ink").mkdir()
    monkeypatch.chdir(tmp_path / "ink")
    assert branch_of(".") == branch_of(tmp_path / "ink") == branch_of(f"{tmp_path}/ink/") == "ink"
