"""Pictures and prompts as the denoiser takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from si_hub.errors import FormatError
from si_hub.training.encoding import encode_picture
from si_hub.training.gallery import some_pictures


def test_pictures_of_every_kind_and_size_are_encoded_alike(pipeline: Any, tmp_path: Path) -> None:
    """Turned as their maker held the camera; a picture of one colour is that colour in any mode and size."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "plain.png")
    Image.new("RGBA", (33, 71), (255, 0, 0, 255)).save(tmp_path / "alpha.png")
    Image.new("P", (300, 1), 0).save(tmp_path / "black.bmp")
    halves = Image.new("RGB", (64, 64), "red")
    halves.paste("blue", (0, 0, 64, 32))
    halves.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn by a quarter, clockwise.
    halves.rotate(90).save(tmp_path / "turned.png", exif=exif)
    found = {file.stem: encode_picture(pipeline, file, 32, 32) for file in some_pictures(tmp_path)}
    assert all(latents.shape == (1, 8, 8, 8) for latents in found.values())
    torch.testing.assert_close(found["alpha"], found["plain"])
    torch.testing.assert_close(found["turned"], found["upright"])
    assert not torch.allclose(found["black"], found["plain"], atol=0.1)


@pytest.mark.parametrize("length", [0, 40, 1000])
def test_a_picture_that_ends_early_is_told(pipeline: Any, tmp_path: Path, length: int) -> None:
    file = tmp_path / "a.png"
    Image.effect_noise((64, 64), 50).save(file)
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(FormatError, match=r"a\.png: is no picture that can be read"):
        encode_picture(pipeline, file, 64, 64)
