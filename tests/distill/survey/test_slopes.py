"""How far apart weights must be that are rounded."""

from __future__ import annotations

import pytest
import torch

from si_hub.distill.pair.change import Change
from si_hub.distill.pair.weights import Weight
from si_hub.distill.survey.slopes import FAR, NEAR, ROUNDINGS, half_width
from si_hub.storage.tensors import Tensor


def changes(*ratios: float) -> list[Change]:
    """Weights of ones, and others that are apart by a share of them."""
    found = []
    for number, ratio in enumerate(ratios):
        sides = (torch.ones(4, 5), torch.full((4, 5), 1.0 + ratio))
        base, tuned = (Weight.in_file(Tensor.from_torch(side), "weight") for side in sides)
        found.append(Change("unet", str(number), "linear", (4, 5), (base, tuned), None))
    return found


@pytest.mark.parametrize(("held", "bits"), [(torch.bfloat16, 7), (torch.float16, 10)])
def test_rounding_is_as_small_a_part_of_a_small_difference_as_of_a_large_one(held: torch.dtype, bits: int) -> None:
    ratio = ROUNDINGS * 2.0**-bits / 0.3
    assert half_width(changes(ratio), held) == pytest.approx(0.3, rel=1e-4)
    assert half_width(changes(2 * ratio), held) == pytest.approx(0.15, rel=1e-4)
    # Two weights of the same size: the mean of their squares.
    assert half_width(changes(ratio, 7**0.5 * ratio), held) == pytest.approx(0.15, rel=1e-4)


@pytest.mark.parametrize("held", [torch.bfloat16, torch.float16])
def test_it_is_never_nearer_nor_farther_than_the_models(held: torch.dtype) -> None:
    assert half_width(changes(1.0), held) == NEAR
    assert half_width(changes(1e-6), held) == half_width([], held) == FAR


def test_what_is_not_rounded_is_looked_at_from_near() -> None:
    assert half_width(changes(1e-6), torch.float32) == NEAR


def test_the_settings_of_the_miniatures_checkpoints_are_those_of_float32() -> None:
    """They are 0.1 of their weights' size from the base, which bfloat16 has room for."""
    from tests.miniature import INK, open_pair

    assert half_width(open_pair(INK).changes, torch.bfloat16) == pytest.approx(NEAR, rel=0.1)
