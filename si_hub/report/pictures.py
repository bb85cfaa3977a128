"""Pictures for reports: small ones enlarged without blurring, large ones reduced."""

from __future__ import annotations

import io

from PIL import Image

LEAST, MOST = 128, 512


def fit_size(picture: Image.Image) -> Image.Image:
    """The picture in RGB, its longer side from `LEAST` to `MOST` pixels."""
    plain = picture.convert("RGB")
    longer = max(plain.size)
    if longer < LEAST:
        times = -(-LEAST // longer)
        return plain.resize((plain.width * times, plain.height * times), Image.Resampling.NEAREST)
    plain.thumbnail((MOST, MOST), Image.Resampling.LANCZOS)
    return plain


def picture_png(picture: Image.Image) -> bytes:
    """`fit_size` as a PNG."""
    out = io.BytesIO()
    fit_size(picture).save(out, format="PNG")
    return out.getvalue()
