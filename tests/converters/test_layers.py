"""Layers in the making: cut from fused modules, and one where two names of a module say the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from si_hub import converters
from si_hub.errors import (
    AmbiguousFamily,
    SiHubError,
)

Entries = dict[str, tuple[str, tuple[int, ...]]]


WriteZeros = Callable[..., Path]


DOWN, UP = ".lora_down.weight", ".lora_up.weight"


def pair(stem: str, out: int, in_: int, rank: int = 4) -> Entries:
    return {stem + DOWN: ("F16", (rank, in_)), stem + UP: ("F16", (out, rank))}


def refuse(path: Path, error: type[SiHubError], match: str, **options: Any) -> SiHubError:
    """Converting ``path`` raises ``error``, whose line names the file."""
    with pytest.raises(error, match=match) as caught:
        converters.convert_source(path, **options)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def test_two_names_of_one_module_are_an_error_that_names_both(tmp_path: Path, write_zeros: WriteZeros) -> None:
    names = ("lora_unet_input_blocks_4_1_proj_in", "lora_unet_down_blocks_1_attentions_0_proj_in")
    other = {f"{names[1]}{DOWN}": ("F16", (2, 640)), f"{names[1]}{UP}": ("F16", (640, 2))}
    file = write_zeros(tmp_path / "a.safetensors", pair(names[0], 640, 640) | other)
    match = f"{names[1]}.*same module of the base model, and differ in their ranks, 4 and 2.*found {names[0]}"
    refuse(file, AmbiguousFamily, match, base="sdxl")


def test_two_names_of_one_module_that_say_the_same_are_one(tmp_path: Path, write_arrays: WriteZeros) -> None:
    """As OneTrainer's and kohya's names of the same layer, of which one is part of a fused module."""
    random = np.random.default_rng(0)
    down, up = random.normal(size=(4, 3072)).astype("f4"), random.normal(size=(9216, 4)).astype("f4")
    own, fused = "lora_transformer_transformer_blocks_0_attn_to_q", "lora_unet_double_blocks_0_img_attn_qkv"
    arrays = {
        own + DOWN: down, own + UP: up[:3072], f"{own}.alpha": np.float32(4), fused + DOWN: down, fused + UP: up,
    }  # fmt: skip
    found = converters.convert_source(write_arrays(tmp_path / "a.safetensors", arrays), base="flux")
    layers = found.adapter.components["transformer"].layers
    assert set(layers) == {f"transformer_blocks.0.attn.to_{part}" for part in "qkv"}
    assert set(found.report.uses) == set(arrays)
    assert not found.report.dropped
    arrays[own + UP] = up[:3072] + 1
    refuse(
        write_arrays(tmp_path / "b.safetensors", arrays), AmbiguousFamily,
        f"{fused}: two modules of the file .* differ in up.weight.*found {own}", base="flux",
    )  # fmt: skip
    arrays |= {own + UP: up[:3072], f"{own}.alpha": np.float32(2)}
    match = "differ in their scales, 0.5 and 1"
    refuse(write_arrays(tmp_path / "c.safetensors", arrays), AmbiguousFamily, match, base="flux")
