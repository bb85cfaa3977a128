"""Scalars of the small float formats against torch's own decoding."""

from __future__ import annotations

import math

import pytest
import torch

from si_hub.converters.numbers import number
from si_hub.storage.tensors import Tensor


@pytest.mark.parametrize(("name", "dtype"), [("F8_E4M3", torch.float8_e4m3fn), ("F8_E5M2", torch.float8_e5m2)])
def test_every_float8_value_is_read_as_torch_reads_it(name: str, dtype: torch.dtype) -> None:
    expected = torch.arange(256, dtype=torch.uint8).view(dtype).double().tolist()
    for byte, value in enumerate(expected):
        found = number(Tensor.from_bytes(name, (1,), bytes([byte])))
        assert (found == value and math.copysign(1, found) == math.copysign(1, value)) or math.isnan(found + value)


@pytest.mark.parametrize("tensor", [Tensor.from_bytes("F8_E4M3", (2,), b"12"), Tensor.from_bytes("U8", (0,), b"")])
def test_what_is_no_single_number_is_an_error(tensor: Tensor) -> None:
    with pytest.raises(ValueError, match="one element expected"):
        number(tensor)
