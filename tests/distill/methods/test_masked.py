"""Transformers whose prompts have masks or lengths of their own, calibrated and trained from end to end."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from si_hub.distill import distill
from si_hub.format import read
from tests.distill import families, masked

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("family", ["qwen", "lumina2", "z_image"])
def test_prompts_of_different_lengths_are_calibrated_and_trained_with(family: str, tmp_path: Path) -> None:
    base = getattr(masked, family)(tmp_path / "base")
    tuned = families.tuned(base, tmp_path / "tuned", ("transformer",))
    (tmp_path / "prompts.txt").write_text("a b\nc\na longer prompt\nd e f\n", encoding="utf-8")
    made = distill(
        base, tuned, output=tmp_path / "made.safetensors", method="trained", rank=8, dtype="fp32",
        prompts=tmp_path / "prompts.txt", cache=tmp_path / "cache", resolution=16, trajectories=3, states=2,
        sampling_steps=3, held_out=2, pieces=16, steps=4, samples=4, part=2, walks=1,
    )  # fmt: skip
    assert made.error < 0.5
    layers = read(made.path).components["transformer"].layers
    assert all(layer.rank for layer in layers.values() if "up.weight" in layer.tensors)
    reasons = Counter(made.left_out.values())
    assert reasons["a module that adapters cannot reach"] == 0
