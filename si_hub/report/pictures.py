"""Pictures for reports: small ones enlarged without blurring, large ones reduced."""

from __future__ import annotations

import io

from PIL import Image

LEAST, MOST = 256, 512


def enlarge(picture: Image.Image, least: int = LEAST) -> Image.Image:
    """A picture whose longer side is under ``least`` pixels, by whole pixels to that or more; a larger one as it is."""
    longer = max(picture.size)
    if longer >= least:
        return picture
    times = -(-least // longer)
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


def fit_size(picture: Image.Image) -> Image.Image:
    """The picture in RGB, its longer side from `LEAST` to `MOST` pixels."""
    plain = enlarge(picture.convert("RGB"))
    plain.thumbnail((MOST, MOST), Image.Resampling.LANCZOS)
    return plain


def picture_png(picture: Image.Image) -> bytes:
    """`fit_size` as a PNG."""
    out = io.BytesIO()
    fit_size(picture).save(out, format="PNG")
    return out.getvalue()
