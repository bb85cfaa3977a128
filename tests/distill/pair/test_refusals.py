"""Pairs that cannot be right, refused before any work, and what is said of those that can."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from si_hub import architectures
from si_hub.distill.pair.matching import match
from si_hub.distill.pair.opening import open_model
from si_hub.errors import WrongPair
from tests.distill.checkpoints import write
from tests.miniature import BASE, INK, NEON, copy_base, open_pair

UNET = "model.diffusion_model."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the miniature's base."""
    return copy_base(tmp_path / "base")


def test_a_text_encoder_that_is_not_in_the_file_is_taken_as_unchanged(tmp_path: Path) -> None:
    held = {name: value for name, value in load_file(NEON).items() if name.startswith(UNET)}
    found = open_pair(write(tmp_path / "unet.safetensors", held))
    assert {change.component for change in found.changes} == {"unet"}
    assert "text_encoder is not in unet.safetensors: taken as unchanged" in found.notes
    assert any("does not say what it predicts" in note for note in found.notes)


def test_a_differing_autoencoder_is_reported(tmp_path: Path) -> None:
    held = load_file(NEON)
    held["first_stage_model.decoder.conv_out.bias"] += 1
    [note] = [note for note in open_pair(write(tmp_path / "vae.safetensors", held)).notes if "autoencoder" in note]
    assert "is not carried" in note


def test_a_pair_in_the_wrong_order_is_named_and_may_be_meant(folder: Path, tmp_path: Path) -> None:
    merged = write(tmp_path / "merged.safetensors", load_file(NEON), {"sd_merge_recipe": "{}"})
    sdxl = architectures.load("sdxl")
    assert sdxl.components
    base, tuned = open_model(BASE), open_model(NEON, base=open_model(BASE))
    with pytest.raises(WrongPair, match=r"look swapped.*single-file checkpoint.*trust_order=True"):
        match(tuned, base)
    assert len(match(tuned, base, trust_order=True).changes) == len(match(base, tuned).changes)
    with pytest.raises(WrongPair, match=r"look swapped.*sd_merge_recipe"):
        match(open_model(merged, base=base), open_model(INK, base=base))
    assert match(open_model(INK, base=base), open_model(merged, base=base)).changes
