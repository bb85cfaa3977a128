"""Pairs of models: what differs, and every wrong pair found before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from si_hub.distill.pair.opening import open_model
from si_hub.errors import WrongPair
from tests.distill import families
from tests.miniature import BASE, copy_base, open_pair

UNET = "model.diffusion_model."
CONV_IN = f"{UNET}input_blocks.0.0.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the miniature's base."""
    return copy_base(tmp_path / "base")


def test_unchanged_modules_are_found_by_every_number(changed: Callable[..., Path]) -> None:
    weight = open_model(BASE).components["unet"]["mid_block.resnets.0.conv1.weight"].torch().clone()
    weight.view(-1)[4321] += 1  # Between the sampled places.
    found = open_pair(changed(**{"middle_block.0.in_layers.2.weight": weight}))
    assert [change.module for change in found.changes] == ["mid_block.resnets.0.conv1"]
    assert found.changes[0].bias is None
    assert found.changes[0].bias_delta() is None
    delta = found.changes[0].delta()
    assert delta is not None
    assert int(delta.count_nonzero()) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_rounding_to_another_dtype_is_no_change(dtype: torch.dtype, changed: Callable[..., Path]) -> None:
    bias = torch.ones(48).to(dtype)
    found = open_pair(changed(dtype, **{"input_blocks.0.0.bias": bias}))
    assert [(change.module, change.weight) for change in found.changes] == [("conv_in", None)]


def test_the_same_model_twice_is_named(folder: Path, changed: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(BASE)
    for tuned in (BASE, tmp_path / "link", folder, changed(), changed(torch.float32), changed(torch.bfloat16)):
        with pytest.raises(WrongPair, match="are the same"):
            open_pair(tuned)


def test_a_model_with_another_autoencoder_alone_needs_no_adapter(tmp_path: Path) -> None:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors["decoder.conv_in.weight"] += 1.0

    with pytest.raises(WrongPair, match=r"all that adapters carry.*another autoencoder alone"):
        open_pair(families.edited(BASE, tmp_path / "tuned", "vae", edit))
