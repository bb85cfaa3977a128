"""Strangers, and a model beside itself, told by a few of their numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from si_hub.distill.pair.checkpoint import read_checkpoint
from si_hub.distill.pair.kinship import glance
from si_hub.distill.pair.weights import Weight
from si_hub.errors import WrongPair
from si_hub.storage.tensors import Tensor
from tests.distill.checkpoints import write
from tests.miniature import NEON, open_pair

UNET = "model.diffusion_model."


CONV_IN = f"{UNET}input_blocks.0.0.weight"


def test_a_stranger_of_the_same_architecture_is_named(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    held = {name: torch.randn(value.shape, generator=draw) for name, value in load_file(NEON).items()}
    with pytest.raises(WrongPair, match="nothing to do with the base"):
        open_pair(write(tmp_path / "stranger.safetensors", held))


def test_single_files_are_compared_by_their_own_names(changed: Callable[..., Path]) -> None:
    base, other = read_checkpoint(NEON)[0], read_checkpoint(changed())[0]
    with pytest.raises(WrongPair, match="are the same"):
        glance(NEON, base, base)
    with pytest.raises(WrongPair, match="are the same"):
        glance(NEON, {name: base[name] for name in base if "first_stage" not in name}, base)
    glance(NEON, other, base)
    glance(NEON, base | {f"{UNET}new.weight": base[CONV_IN]}, base)
    drawn = torch.randn(base[CONV_IN].shape, generator=torch.Generator().manual_seed(0))
    with pytest.raises(WrongPair, match="nothing to do with the base"):
        glance(NEON, {CONV_IN: Weight.in_file(Tensor.from_torch(drawn), CONV_IN)}, base)
