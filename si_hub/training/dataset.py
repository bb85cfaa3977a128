"""Pictures with captions, as people keep them: texts beside pictures, or a table of `datasets`' ImageFolder."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from si_hub.distill.training.pictures import caption, open_picture, some_pictures
from si_hub.errors import FormatError, MissingFile, UsageError
from si_hub.foreign import make_safe
from si_hub.storage.files import open_regular
from si_hub.words import label, option

#: Tables of captions; ``file_name`` names the picture, the first of the others that is there is its caption.
CAPTION_TABLES = ("metadata.jsonl", "metadata.csv")
_COLUMNS = ("text", "caption", "prompt", "additional_feature")


@dataclass(frozen=True, slots=True)
class Example:
    """A picture to learn from.

    Attributes:
        file: the picture.
        caption: what it shows.
        style: number of the branch that it belongs to.
    """

    file: Path
    caption: str
    style: int = 0


def read_examples(folders: Sequence[str | Path], given: str | None = None) -> list[Example]:
    """The pictures of one folder, or of one folder a style; every one can be opened and has a caption.

    Args:
        given: the caption of all pictures that have none of their own.

    Raises:
        MissingFile: no such folder, no picture in it, or a table's picture that is not there.
        UsageError: a picture without a caption.
        FormatError, NotUtf8, FileAccessError: a picture, text or table that cannot be read.
    """
    found: list[Example] = []
    for style, folder in enumerate(map(Path, folders)):
        table = _read_table(folder)
        for file in some_pictures(folder):
            with open_picture(file):
                pass
            text = caption(file) or table.get(file.name) or given
            if text is None:
                raise UsageError(
                    "has no caption", file=file, expected=f"{file.stem}.txt beside it, or a row of {CAPTION_TABLES[0]}",
                    hint=f"Write one, or give all of them one with {option('caption')}.",
                )  # fmt: skip
            found.append(Example(file, text, style))
        if missing := sorted(table.keys() - {one.file.name for one in found if one.style == style}):
            raise MissingFile("is in the table of captions and not in the folder", file=folder / missing[0])
    return found


def name_styles(folders: Sequence[str | Path]) -> tuple[str, ...]:
    """Names of the branches that folders of styles become: the folders' own.

    Raises:
        UsageError: two of one name.
    """
    names = tuple(Path(folder).resolve().name for folder in folders)
    if len(set(names)) < len(names):
        raise UsageError("two folders of styles have one name", key=label("styles"), found=", ".join(names))
    return names


def _read_table(folder: Path) -> dict[str, str]:
    """Captions by file name, of the first table that the folder has."""
    for name in CAPTION_TABLES:
        file = folder / name
        if file.is_file():
            rows = _read_lines(file) if name.endswith("l") else _read_rows(file)
            return {row: text for row, text in rows if text}
    return {}


def _read_lines(file: Path) -> Iterator[tuple[str, str]]:
    with open(open_regular(file), "rb") as data:
        for number, line in enumerate(data, 1):
            if not line.strip():
                continue
            try:
                yield _pick(json.loads(line), file, number)
            except (ValueError, RecursionError) as error:
                raise FormatError("is no table of captions", file=file, key=f"line {number}",
                                  expected='{"file_name": "a.png", "text": "a cat"}') from error  # fmt: skip


def _read_rows(file: Path) -> Iterator[tuple[str, str]]:
    with open(open_regular(file), encoding="utf-8-sig", newline="") as data:
        try:
            for number, row in enumerate(csv.DictReader(data), 2):
                yield _pick(row, file, number)
        except (UnicodeDecodeError, csv.Error) as error:
            raise FormatError("is no table of captions", file=file, expected="file_name,text") from error


def _pick(row: object, file: Path, number: int) -> tuple[str, str]:
    if isinstance(row, dict) and isinstance(name := row.get("file_name"), str):
        text = next((row[column] for column in _COLUMNS if isinstance(row.get(column), str)), "")
        return name, text.strip()
    raise FormatError("has a row without a file_name", file=file, key=f"line {number}", found=make_safe(str(row), 80))
