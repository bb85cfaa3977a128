"""Figures: rows of pictures under large labels, small pictures enlarged by whole pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

#: Pixels: side of a picture, gap, what a label takes above a picture, the column of the rows' names.
SIDE, GAP, LABEL, NAMES = 176, 10, 30, 190
LARGE, SMALL = 20, 16


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        name: written at its left, line by line.
        pictures: label → picture.
    """

    name: str
    pictures: Sequence[tuple[str, Image.Image]]


def fit(picture: Image.Image, side: int = SIDE) -> Image.Image:
    """A picture in a square: enlarged by whole pixels where it is small, reduced where it is large."""
    plain = picture.convert("RGB")
    longer = max(plain.size)
    if longer > side:
        plain.thumbnail((side, side), Image.Resampling.LANCZOS)
    elif times := side // longer:
        plain = plain.resize((plain.width * times, plain.height * times), Image.Resampling.NEAREST)
    square = Image.new("RGB", (side, side), "white")
    square.paste(plain, ((side - plain.width) // 2, (side - plain.height) // 2))
    return square


def draw_figure(rows: Sequence[Row], caption: str, side: int = SIDE) -> Image.Image:
    """The rows one below the other, and a caption under them."""
    columns = max(len(row.pictures) for row in rows)
    band = LABEL + side + GAP
    sheet = Image.new("RGB", (NAMES + columns * (side + GAP), len(rows) * band + LABEL + GAP), "white")
    pen, large, small = ImageDraw.Draw(sheet), ImageFont.load_default(LARGE), ImageFont.load_default(SMALL)
    for number, row in enumerate(rows):
        top = number * band
        for place, line in enumerate(row.name.split("\n")):
            font, ink = (small, "dimgray") if place else (large, "black")
            pen.text((GAP, top + LABEL + side // 2 - LARGE + place * (SMALL + 10)), line, ink, font)
        for column, (label, picture) in enumerate(row.pictures):
            left = NAMES + column * (side + GAP)
            pen.text((left + side / 2, top + LABEL / 2 + 2), label, "black", large, anchor="mm")
            sheet.paste(fit(picture, side), (left, top + LABEL))
    pen.text((GAP, len(rows) * band + LABEL / 2), caption, "dimgray", small, anchor="lm")
    return sheet
