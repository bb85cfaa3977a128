"""The little arithmetic that lowering needs, in float64, stored as float32."""

from __future__ import annotations

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


def scaled(tensor: Tensor, scale: float) -> Tensor:
    """``scale`` times a tensor, float32."""
    import numpy

    return Tensor.from_numpy((as_float64(tensor) * scale).astype(numpy.float32))
