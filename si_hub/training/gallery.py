"""Pictures in folders and their captions: found, opened one at a time, never trusted."""

from __future__ import annotations

import csv
import io
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from si_hub.errors import FormatError, MissingFile, NotUtf8, SiHubError, UsageError
from si_hub.storage.files import open_regular
from si_hub.words import label, option

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
#: Tables of captions, as ``datasets``' ImageFolder reads them, and the columns that a caption may stand in.
_TABLES = ("metadata.jsonl", "metadata.csv")
_FILE = ("file_name", "image", "file")
_CAPTION = ("text", "caption", "prompt")
#: What Pillow raises of a damaged picture.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
#: Bytes of a table of captions, at most.
_LIMIT = 256 << 20


@dataclass(frozen=True, slots=True)
class Captioned:
    """A picture and what it shows.

    Attributes:
        file: the picture.
        caption: in words; ``None`` where nobody said.
        branch: the style that it is of, where there are several.
    """

    file: Path
    caption: str | None
    branch: str | None = None


def pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, in the order of their names."""
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURE_SUFFIXES)


def check_pictures(folder: str | Path) -> None:
    """Look at what a folder has before any work.

    Raises:
        MissingFile: no such folder, or no picture in it.
        FormatError, FileAccessError: a picture or caption that cannot be read.
    """
    for file in some_pictures(folder):
        with open_picture(file):
            pass
        caption(file)


def some_pictures(folder: str | Path) -> list[Path]:
    """The pictures of a folder.

    Raises:
        MissingFile: no such folder, or no picture in it.
    """
    files = pictures(Path(folder))
    if not files:
        raise MissingFile("no folder with pictures", file=folder, expected=", ".join(sorted(PICTURE_SUFFIXES)))
    return files


def captioned_pictures(
    folder: str | Path, caption_for_all: str | None = None, branch: str | None = None
) -> list[Captioned]:
    """The pictures of a folder with their captions: of a table, of texts beside them, or one for all.

    A table may name pictures in folders below; those it does not name are left out, as ``datasets`` has it.

    Args:
        folder: with pictures, and ``x.txt`` beside ``x.png`` or one of ``metadata.jsonl`` or ``metadata.csv``.
        caption_for_all: what every picture without a caption of its own is told to be.
        branch: the style that all of them are of.

    Raises:
        MissingFile: no such folder, no picture in it, or one that the table names is not there.
        UsageError: pictures without captions, and none for all.
        FormatError, FileAccessError: what cannot be read.
    """
    place = Path(folder)
    table = next((place / name for name in _TABLES if (place / name).is_file()), None)
    if table is None:
        found = [Captioned(file, caption(file) or caption_for_all, branch) for file in some_pictures(place)]
    else:
        found = [Captioned(file, text or caption_for_all, branch) for file, text in _rows(table)]
    if untold := [one.file.name for one in found if one.caption is None]:
        raise UsageError(
            f"{len(untold)} of {len(found)} pictures have no caption, such as {untold[0]}", file=place,
            expected=f"a text beside each picture, {' or '.join(_TABLES)}" if table is None
            else f"{' or '.join(_CAPTION)} in each row of {table.name}",
            hint=f"Or give one for all with {option('caption')}.",
        )  # fmt: skip
    for one in found:
        with open_picture(one.file):
            pass
    return found


def _rows(table: Path) -> list[tuple[Path, str | None]]:
    """The pictures that a table names, with their captions."""
    if table.stat().st_size > _LIMIT:
        raise FormatError("is too large for a table of captions", file=table, expected=f"at most {_LIMIT} bytes")
    with open(open_regular(table), "rb") as data:
        try:
            text = data.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise NotUtf8("is no UTF-8 text", file=table) from error
    read = _of_csv(text, table) if table.suffix == ".csv" else _of_json(text, table)
    found = []
    for number, row in enumerate(read, start=1):
        name = next((row[key] for key in _FILE if isinstance(row.get(key), str)), None)
        if name is None:
            raise FormatError("names no picture", file=table, key=f"row {number}", expected=" or ".join(_FILE))
        file = table.parent / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise FormatError("names a picture outside the folder", file=table, key=f"row {number}", found=name)
        if not file.is_file():
            raise MissingFile("names a picture that is not there", file=table, key=f"row {number}", found=name)
        told = next((row[key] for key in _CAPTION if isinstance(row.get(key), str)), None)
        found.append((file, (told or "").strip() or None))
    if not found:
        raise MissingFile("names no picture", file=table)
    return found


def _of_csv(text: str, table: Path) -> Iterator[Mapping[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        yield from reader
    except csv.Error as error:
        raise FormatError(f"is no table: {error}", file=table, key=f"line {reader.reader.line_num}") from error


def _of_json(text: str, table: Path) -> Iterator[Mapping[str, Any]]:
    # Of what Unicode calls ends of lines, JSON has most in its texts.
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise FormatError("is no JSON object", file=table, key=f"line {number}")
            yield row


def branch_of(folder: str | Path) -> str:
    """The name of the style whose pictures a folder holds: the folder's own."""
    name = Path(folder).resolve().name
    if not name:
        raise UsageError("a folder without a name names no style", key=label("styles"), found=str(folder))
    return name


@contextmanager
def open_picture(file: Path) -> Iterator[Any]:
    """A picture of which the kind and size are known; the rest is read when it is used, in the block.

    Raises:
        FormatError: no picture, one that ends early, or one of absurdly many pixels.
        FileAccessError: no permission.
    """
    from PIL import Image

    with open(open_regular(file), "rb") as data:
        try:
            with Image.open(data) as picture:
                yield picture
        except SiHubError:
            raise
        except (*_UNREADABLE, Image.DecompressionBombError) as error:
            raise FormatError("is no picture that can be read", file=file, hint="Take it out.") from error


def as_seen(picture: Any) -> Any:
    """An opened picture in RGB as people see it: upright, on white where it is transparent.

    Sixteen bits a channel become eight; of an animation it is the first picture.
    """
    import numpy
    from PIL import Image, ImageOps

    shown = ImageOps.exif_transpose(picture)
    if shown.mode == "I" or shown.mode.startswith("I;16"):
        # Pillow would take all above 255 for white.
        values = numpy.asarray(shown).clip(0, 65535) / 257
        shown = Image.fromarray(values.round().astype(numpy.uint8))
    if shown.mode in ("LA", "PA", "RGBA") or "transparency" in shown.info:
        colours = shown.convert("RGBA")
        shown = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    return shown.convert("RGB")


def caption_file(picture: Path) -> Path:
    """Where a picture's caption is, if it has one."""
    return picture.with_suffix(".txt")


def caption(file: Path) -> str | None:
    """What the text beside a picture says.

    Raises:
        NotUtf8: no text.
    """
    text = caption_file(file)
    try:
        return text.read_text(encoding="utf-8-sig").strip() or None if text.is_file() else None
    except UnicodeDecodeError as error:
        raise NotUtf8("is no UTF-8 text", file=text) from error
