"""A layer's tensors in another format: alphas, folded scales, and what there is no place for."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from si_hub.adapter import Layer
from si_hub.errors import ConversionRefused
from si_hub.exporting.formats import DIFFUSERS, KOHYA
from si_hub.exporting.spelling import fold_scale, folds_exactly, spell_alpha, spell_layer
from si_hub.storage.tensors import Tensor


def tensor(*shape: int, dtype: str = "<f4", size: float = 1.0) -> Tensor:
    return Tensor.from_numpy((size * np.random.default_rng(0).standard_normal(shape)).astype(dtype))


def pair(alpha: float | None, *kernel: int, dtype: str = "<f4") -> Layer:
    return Layer({"down.weight": tensor(4, 6, *kernel, dtype=dtype), "up.weight": tensor(5, 4, dtype=dtype)}, alpha)


def test_alpha_is_a_float32_scalar_wherever_that_holds_it() -> None:
    assert spell_alpha(pair(1.5)).item() == 1.5
    assert spell_alpha(pair(None)).item() == 4
    odd = spell_alpha(pair(0.1))
    assert (odd.dtype, struct.unpack("<d", odd.tobytes())) == ("F64", (0.1,))


@pytest.mark.parametrize(("alpha", "exact"), [(4.0, True), (8.0, True), (0.5, True), (3.0, False), (-4.0, False)])
def test_powers_of_two_fold_without_rounding(alpha: float, exact: bool) -> None:
    assert folds_exactly(pair(alpha)) == exact


def test_a_folded_scale_keeps_the_dtype_unless_numbers_would_leave_its_range() -> None:
    up = tensor(5, 4, dtype="<f2")
    folded = fold_scale(up, 0.25)
    assert folded.dtype == "F16"
    np.testing.assert_array_equal(folded.numpy(), up.numpy() * np.float16(0.25))
    tiny = tensor(5, 4, dtype="<f2", size=1e-6)
    folded = fold_scale(tiny, 2.0**-8)
    assert folded.dtype == "F32"
    np.testing.assert_array_equal(folded.numpy(), tiny.numpy().astype(np.float32) / 256)


def test_a_convolutions_up_has_a_kernel_of_ones() -> None:
    slots = spell_layer("conv", pair(2.0, 3, 3), "conv", 4, KOHYA)
    assert slots["up"].shape == (5, 4, 1, 1)
    assert slots["down"].shape == (4, 6, 3, 3)
    slots = spell_layer("linear", pair(2.0), "linear", 2, DIFFUSERS)
    assert set(slots) == {"down", "up"}
    up = pair(2.0).tensors["up.weight"].numpy()
    np.testing.assert_array_equal(slots["up"].numpy(), up / 2)


def test_norms_and_others_have_their_own_names() -> None:
    norm = Layer({"weight_delta": tensor(6), "bias_delta": tensor(6)})
    assert set(spell_layer("norm", norm, "norm", 1, KOHYA)) == {"w_norm", "b_norm"}
    assert set(spell_layer("fc", norm, "linear", 2, KOHYA)) == {"diff", "diff_b"}


def test_what_has_no_place_is_named() -> None:
    turn = Layer({"turn": tensor(2, 3, 3)})
    with pytest.raises(ConversionRefused, match=r"mid\.fc: kohya's.*has no place for a layer's turn"):
        spell_layer("mid.fc", turn, "linear", 2, KOHYA)
    product = Layer({"up.weight": tensor(2, 1), "down.weight": tensor(1, 3), "kron": tensor(2, 2)})
    with pytest.raises(ConversionRefused, match="has no place for a layer's kron"):
        spell_layer("mid.fc", product, "linear", 2, DIFFUSERS)
