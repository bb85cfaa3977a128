"""What was drawn while it was trained, on one picture: a row for every moment, a column for every prompt."""

from __future__ import annotations

from pathlib import Path

from si_hub.foreign import make_safe
from si_hub.storage.files import atomic_file
from si_hub.training.drawings import Drawings

#: Smaller pictures are shown as many times larger as this takes, larger ones smaller, in pixels.
_SIDE = 192
_GAP, _LINE, _BESIDE, _TEXT = 8, 22, 96, 15


def write_contact_sheet(drawings: Drawings, steps: int, file: Path) -> None:
    """Write all that was drawn so far, in order of the steps, as a PNG that appears whole.

    Args:
        drawings: of a training.
        steps: of which drawings are looked for.
        file: to write; what was drawn earlier is in it again.
    """
    from PIL import Image, ImageDraw, ImageFont

    titles = drawings.titles(steps)
    rows = [drawings.pictures(title) for title in titles]
    wide, high = rows[0][0].size
    times = max(1, round(_SIDE / max(wide, high))) if max(wide, high) <= _SIDE else _SIDE / max(wide, high)
    size = (max(1, round(wide * times)), max(1, round(high * times)))
    way = Image.Resampling.NEAREST if times >= 1 else Image.Resampling.LANCZOS
    columns = len(drawings.prompts)
    sheet = Image.new(
        "RGB", (_BESIDE + columns * (size[0] + _GAP), _LINE + _GAP + len(rows) * (size[1] + _GAP)), "white"
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT)
    letters = max(8, size[0] // 8)
    for column, (prompt, branch) in enumerate(drawings.prompts):
        told = make_safe(f"{branch}: {prompt}" if branch else prompt, letters)
        pen.text((_BESIDE + column * (size[0] + _GAP), _GAP // 2), told, fill="black", font=font)
    for row, (title, pictures) in enumerate(zip(titles, rows, strict=True)):
        top = _LINE + _GAP + row * (size[1] + _GAP)
        pen.text((_GAP, top + size[1] // 2 - _TEXT), title, fill="black", font=font)
        for column, picture in enumerate(pictures):
            sheet.paste(picture.resize(size, way), (_BESIDE + column * (size[0] + _GAP), top))
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file, overwrite=True) as out:
        sheet.save(out, format="PNG")
