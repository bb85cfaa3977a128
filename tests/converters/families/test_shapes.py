"""Rules of shapes: what fits a base module, what fits another, and what is no pair at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from si_hub.converters.families import locon_tucker
from si_hub.converters.families.contract import SourceModule, Target
from si_hub.converters.families.shapes import (
    check_bias,
    check_difference,
    check_matrix,
    check_pair,
    pair_groups,
    pair_rank,
    reshape,
    size_of,
)
from si_hub.converters.naming.names import read_stem
from si_hub.errors import BaseMismatch, LayerShapeError, SiHubError
from si_hub.storage.tensors import Tensor

Shape = tuple[int, ...]
LINEAR, CONV = Target("linear", (8, 6), True), Target("conv", (8, 6, 3, 3), True)


def module(**slots: Shape) -> SourceModule:
    tensors = {slot: Tensor.from_torch(torch.zeros(shape)) for slot, shape in slots.items()}
    names = {slot: f"lora_unet_x.{slot}" for slot in slots}
    return SourceModule("lora_unet_x", Path("lora.safetensors"), read_stem("lora_unet_x"), tensors, names)


@pytest.mark.parametrize(
    ("down", "up", "target"),
    [
        ((4, 6), (8, 4), LINEAR),
        ((4, 6, 1, 1), (8, 4, 1, 1), LINEAR),
        ((4, 6), (8, 4), Target("conv", (8, 6, 1, 1), True)),
        ((4, 6, 3, 3), (8, 4, 1, 1), CONV),
        ((4, 6, 3, 3), (8, 4), CONV),
        # A convolution of two groups, as PEFT writes it: the base's weight has the inputs of one group.
        ((4, 12, 3, 3), (8, 2, 1, 1), CONV),
        ((0, 6), (8, 0), LINEAR),
    ],
)
def test_a_pair_whose_product_has_the_weight_s_shape_fits(down: Shape, up: Shape, target: Target) -> None:
    check_pair(module(down=down, up=up), target)


@pytest.mark.parametrize(
    ("down", "up", "target", "error", "said"),
    [
        ((4, 6), (7, 4), LINEAR, BaseMismatch, r"up: the output size differs.*expected 8, found 7"),
        ((4, 5), (8, 4), LINEAR, BaseMismatch, r"down: the input size differs.*expected 6, found 5"),
        ((4, 6, 3, 3), (8, 4), LINEAR, BaseMismatch, r"down: the kernel size differs.*expected none, found \[3, 3\]"),
        ((4, 6), (8, 4), CONV, BaseMismatch, r"down: the kernel size differs.*expected \[3, 3\], found none"),
        ((4, 6), (8, 3), LINEAR, LayerShapeError, "up: up and down have different ranks.*4 columns"),
        ((4, 6, 3, 3), (8, 2), CONV, LayerShapeError, "up and down have different ranks"),
        ((4, 6), (8, 4, 3, 3), LINEAR, LayerShapeError, "the up matrix has a kernel"),
        ((6,), (8, 4), LINEAR, LayerShapeError, "a LoRA down matrix needs two axes or more"),
        ((4, 6), (8, 4), Target("norm", (8,), True), BaseMismatch, "cannot change a base module of kind norm"),
    ],
)
def test_a_pair_that_does_not_names_the_tensor_and_both_sizes(
    down: Shape, up: Shape, target: Target, error: type[SiHubError], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        check_pair(module(down=down, up=up), target)
    assert str(caught.value).startswith("lora.safetensors: lora_unet_x.")


@pytest.mark.parametrize(
    ("down", "up", "rank", "groups"), [((4, 6), (8, 4), 4, 1), ((4, 12, 3, 3), (8, 2), 4, 2), ((0, 6), (8, 0), 0, 1)]
)
def test_rank_and_groups_are_what_the_shapes_say(down: Shape, up: Shape, rank: int, groups: int) -> None:
    assert (pair_rank(module(down=down, up=up)), pair_groups(module(down=down, up=up))) == (rank, groups)


def test_a_matrix_is_held_against_the_weight_laid_flat() -> None:
    held = module(w1=(8, 54))
    check_matrix(held, CONV, size_of(held, "w1", 0), size_of(held, "w1", 1))
    check_matrix(held, CONV, None, None)
    with pytest.raises(BaseMismatch, match=r"input size differs.*expected 54, found 53"):
        check_matrix(held, CONV, None, ("w1", 53))
    with pytest.raises(BaseMismatch, match="a matrix cannot change a base module of kind norm"):
        check_matrix(held, Target("norm", (8,), True), None, None)


@pytest.mark.parametrize(
    ("shape", "target", "fits"),
    [
        ((8, 6), LINEAR, True), ((8, 6, 1, 1), LINEAR, True), ((8, 6, 3, 3), LINEAR, False), ((6, 8), LINEAR, False),
        ((8, 6, 3, 3), CONV, True), ((8, 54), CONV, False), ((8,), Target("norm", (8,), True), True),
    ],
)  # fmt: skip
def test_a_difference_has_the_weight_s_shape_but_for_a_kernel_of_one(shape: Shape, target: Target, fits: bool) -> None:
    if fits:
        check_difference(module(diff=shape), "diff", target)
        return
    with pytest.raises(BaseMismatch, match="weight size differs"):
        check_difference(module(diff=shape), "diff", target)


def test_a_bias_needs_one_in_the_base_of_its_size() -> None:
    check_bias(module(diff_b=(8,)), "diff_b", LINEAR)
    with pytest.raises(BaseMismatch, match=r"bias size differs.*expected 8"):
        check_bias(module(diff_b=(7,)), "diff_b", LINEAR)
    with pytest.raises(BaseMismatch, match="the base model's linear has no bias to change"):
        check_bias(module(diff_b=(8,)), "diff_b", Target("linear", (8, 6), bias=False))


def test_a_size_is_that_of_an_axis_that_there_is() -> None:
    held = module(w1=(8, 54))
    assert size_of(held, "w1", 1) == ("w1", 54)
    assert size_of(held, "w1", -2) == ("w1", 8)
    assert size_of(held, "w1", 2) is None
    assert size_of(held, "w2", 0) is None


def test_a_tensor_that_has_the_shape_stays_itself() -> None:
    tensor = Tensor.from_torch(torch.zeros(8, 4, 1, 1))
    assert reshape(tensor, (8, 4, 1, 1)) is tensor
    assert reshape(tensor, (8, 4)).shape == (8, 4)


def test_a_down_without_axes_is_told_of_in_a_tucker_decomposition(tmp_path: Path) -> None:
    module = SourceModule("stem", tmp_path / "lora.safetensors", read_stem("stem"))
    for slot, shape in (("down", ()), ("mid", (2, 2, 3, 3)), ("up", (8, 2, 1, 1))):
        module.tensors[slot], module.names[slot] = Tensor.compute(shape, lambda: torch.empty(0)), f"stem.{slot}"
    with pytest.raises(LayerShapeError, match=r"expected no columns, the rows of stem\.down"):
        locon_tucker.FAMILY.fits(module, Target("conv", (8, 4, 3, 3), bias=False))
