"""What differs between two models: exact, the same however often it is asked for, and in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.miniature import BASE, NEON, open_pair

UNET = "model.diffusion_model."


def test_differences_are_float32_and_exact() -> None:
    found = open_pair(NEON)
    live = {change.module: change for change in found.changes if change.component == "unet"}
    change = live["down_blocks.0.resnets.0.conv1"]
    base = load_file(BASE / "unet" / "diffusion_pytorch_model.safetensors")
    tuned = load_file(NEON)
    for delta, leaf in ((change.delta(), "weight"), (change.bias_delta(), "bias")):
        old = base[f"down_blocks.0.resnets.0.conv1.{leaf}"]
        new = tuned[f"{UNET}input_blocks.1.0.in_layers.2.{leaf}"]
        assert delta is not None
        assert torch.equal(delta, new.float() - old.float())
    assert change.kind == "conv"
    assert found.unchanged == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_asking_twice_gives_the_same_difference(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.save({name: value.to(dtype) for name, value in load_file(NEON).items()}, tmp_path / "tuned.ckpt")
    for change in open_pair(tmp_path / "tuned.ckpt").changes[:20]:
        one, other = change.delta(), change.delta()
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)
        assert one.any()
