"""The little arithmetic that lowering needs, in float64, stored as float32."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

from si_hub.storage.tensors import Tensor

if TYPE_CHECKING:
    import numpy


def as_float64(tensor: Tensor) -> numpy.ndarray[Any, Any]:
    """The values of a floating-point tensor of any dtype, widened."""
    import numpy

    if tensor.dtype == "BF16":
        # bfloat16 is the upper half of float32.
        raw = numpy.frombuffer(tensor.tobytes(), dtype="<u2").astype("<u4") << 16
        return raw.view("<f4").astype(numpy.float64).reshape(tensor.shape)
    if tensor.dtype.startswith("F8"):
        values: numpy.ndarray[Any, Any] = tensor.torch().float().numpy().astype(numpy.float64)
        return values
    return tensor.numpy().astype(numpy.float64)


def number(tensor: Tensor) -> float:
    """The value of a tensor of one element, of any dtype that alphas have; torch is not needed for it.

    Raises:
        ValueError: more than one element, or a dtype that holds no number.
    """
    if tensor.count == 1 and tensor.dtype in ("F8_E4M3", "F8_E5M2"):
        [byte] = tensor.tobytes()
        return _e4m3(byte) if tensor.dtype == "F8_E4M3" else _e5m2(byte)
    return tensor.item()


def _e4m3(byte: int) -> float:
    """Sign, 4 bits of exponent biased by 7, 3 of mantissa; no infinity, and NaN is all ones (arXiv 2209.05433)."""
    exponent, mantissa = byte >> 3 & 15, byte & 7
    if byte & 127 == 127:
        return math.nan
    size = math.ldexp(8 + mantissa, exponent - 10) if exponent else math.ldexp(mantissa, -9)
    return -size if byte & 128 else size


def _e5m2(byte: int) -> float:
    """The upper half of a float16."""
    value: float = struct.unpack("<e", bytes([0, byte]))[0]
    return value


def are_equal(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors hold the same numbers in the same shape, whatever their dtypes; one number has any shape."""
    if first.shape != second.shape and not first.count == second.count == 1:
        return False
    if first.dtype == second.dtype and first.tobytes() == second.tobytes():
        return True
    return bool((as_float64(first).ravel() == as_float64(second).ravel()).all())


def integers(tensor: Tensor) -> numpy.ndarray[Any, Any]:
    """The values of a tensor of whole numbers, int64.

    Raises:
        ValueError: it holds other numbers.
    """
    import numpy

    if tensor.dtype[0] not in "IU":
        raise ValueError(f"whole numbers are expected, not {tensor.dtype}")
    return tensor.numpy().astype(numpy.int64)


def multiply(tensor: Tensor, scale: float) -> Tensor:
    """``scale`` times a tensor, float32."""
    import numpy

    return Tensor.from_numpy((as_float64(tensor) * scale).astype(numpy.float32))
