"""The numbers that a layer's tensors say of it: rank, branches and scale, from their shapes alone."""

from __future__ import annotations

import pytest
import torch

from si_hub.adapter import LEAVES, POOLS, TRANSFORMS, Layer
from si_hub.storage.tensors import Tensor


def layer(alpha: float | None = None, groups: int = 1, **leaves: tuple[int, ...]) -> Layer:
    tensors = {
        name.replace("_weight", ".weight"): Tensor.from_torch(torch.zeros(shape)) for name, shape in leaves.items()
    }
    return Layer(tensors, alpha, groups=groups)


@pytest.mark.parametrize(
    ("made", "rank", "branches", "scale"),
    [
        (layer(down_weight=(4, 6), up_weight=(8, 4)), 4, 1, 1.0),
        (layer(2.0, down_weight=(4, 6), up_weight=(8, 4)), 4, 1, 0.5),
        (layer(2.0, down_weight=(12, 6, 3, 3), up_weight=(8, 4)), 4, 3, 0.5),
        # A grouped convolution's up matrix holds the ranks of one group.
        (layer(2.0, 2, down_weight=(4, 3, 3, 3), up_weight=(8, 2)), 4, 1, 0.5),
        (layer(2.0, gain=(8,)), 0, 0, 1.0),
    ],
)
def test_rank_branches_and_scale_follow_from_the_shapes(made: Layer, rank: int, branches: int, scale: float) -> None:
    assert (made.rank, made.branches, made.scale) == (rank, branches, scale)


def test_every_leaf_transform_and_pool_is_in_the_format_s_document() -> None:
    from tests.places import ROOT

    text = (ROOT / "docs" / "FORMAT.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in (*LEAVES, *TRANSFORMS, *POOLS))
