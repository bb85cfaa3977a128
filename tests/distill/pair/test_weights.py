"""Parameters on disk: a sample is what it says it is, and rounding to another dtype is no difference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from si_hub.distill.pair.weights import SAMPLE, Weight, same_numbers, widen
from si_hub.storage.header import read_safetensors
from si_hub.storage.tensors import Tensor


@pytest.mark.parametrize("count", [1, 5, SAMPLE, SAMPLE + 1, 3 * SAMPLE, 10_000])
def test_a_sample_is_of_the_start_the_middle_and_the_end(count: int, tmp_path: Path) -> None:
    """The same from a file, of which nothing else is read, and from memory."""
    values = torch.arange(count, dtype=torch.float32).reshape(1, -1)
    save_file({"x": values}, tmp_path / "x.safetensors")
    stored = Weight.in_file(read_safetensors(tmp_path / "x.safetensors").tensors["x"], "x")
    starts = sorted({0, min(count // 2, max(0, count - SAMPLE)), max(0, count - SAMPLE)})
    expected = torch.cat([values[0, start : start + SAMPLE] for start in starts])
    memory = Weight("F32", (1, count), ("x",), lambda: values)
    for weight in (stored, memory):
        assert weight.count == count
        assert torch.equal(weight.sample().torch(), expected)
    assert torch.equal(stored.torch(), values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_rounding_is_no_difference_and_one_step_of_the_coarser_dtype_is(dtype: torch.dtype) -> None:
    fine = torch.randn(200, generator=torch.Generator().manual_seed(0))
    coarse = fine.to(dtype)
    assert same_numbers(fine, coarse)
    assert same_numbers(coarse, fine)
    assert same_numbers(coarse, coarse.clone())
    moved = fine.clone()
    moved[7] = moved[7] * 1.5
    assert not same_numbers(moved, coarse)
    assert not same_numbers(moved, fine)


def test_two_coarse_dtypes_are_compared_in_the_coarser() -> None:
    """bfloat16 has fewer digits than float16."""
    fine = torch.tensor([1.001, 3.1416])
    assert same_numbers(fine.half(), fine.half().bfloat16())
    assert not same_numbers(fine.half(), torch.tensor([1.0, 3.25]).bfloat16())


def test_widened_values_are_float32_and_exact() -> None:
    values = torch.tensor([0.5, -1.75, 448.0]).to(torch.float8_e4m3fn)
    weight = Weight("F8_E4M3", (3,), ("x",), lambda: values, Tensor.from_torch(values))
    assert torch.equal(widen(weight), torch.tensor([0.5, -1.75, 448.0]))
