"""What tiny pipelines are called with."""

from __future__ import annotations

from typing import Any

from PIL import Image

PROMPT = "ink cat"
GUIDED = {"prompt": PROMPT, "negative_prompt": "neon", "guidance_scale": 3.0}


def picture(size: int, mode: str = "RGB") -> Any:
    return Image.new(mode, (size, size), 128 if mode == "L" else (90, 120, 200))


def given(name: str, size: int) -> dict[str, Any]:
    """What classes that start from a picture, or paint a part of one, are called with besides."""
    options: dict[str, Any] = {}
    if any(word in name for word in ("Img2Img", "Inpaint", "Fill")):
        options |= {"image": picture(size), "strength": 1.0}
    if any(word in name for word in ("Inpaint", "Fill")):
        options["mask_image"] = picture(size, "L")
    if "Fill" in name:
        del options["strength"]
    return options


def square(side: int, length: int | None = None) -> dict[str, Any]:
    """A guided picture of a size, and how many tokens a prompt may have where the class is told."""
    return {**GUIDED, "height": side, "width": side, **({} if length is None else {"max_sequence_length": length})}
