"""NaN and infinity, found by bit patterns: no decoding, and dtypes that numpy does not have work too."""

from __future__ import annotations

from typing import Any

#: dtype → (width in bytes, mask, want): an element is NaN or infinite where ``bits & mask == want``.
#: The float8 types with "FN" have no infinity, those with "UZ" one NaN (negative zero), E8M0 one NaN (all ones).
_PATTERNS: dict[str, tuple[int, int, int]] = {
    "F64": (8, 0x7FF0 << 48, 0x7FF0 << 48),
    "F32": (4, 0x7F80 << 16, 0x7F80 << 16),
    "F16": (2, 0x7C00, 0x7C00),
    "BF16": (2, 0x7F80, 0x7F80),
    "F8_E5M2": (1, 0x7C, 0x7C),
    "F8_E4M3": (1, 0x7F, 0x7F),
    "F8_E8M0": (1, 0xFF, 0xFF),
    "F8_E4M3FNUZ": (1, 0xFF, 0x80),
    "F8_E5M2FNUZ": (1, 0xFF, 0x80),
    "C64": (4, 0x7F80 << 16, 0x7F80 << 16),
}

_BLOCK = 256 << 10


def count_bad(dtype: str, data: bytes | bytearray | memoryview) -> int:
    """How many numbers in ``data`` are NaN or infinite; 0 for integer dtypes, real and imaginary parts count apart."""
    if dtype not in _PATTERNS:
        return 0
    import numpy

    width, mask, want = _PATTERNS[dtype]
    bits: numpy.ndarray[Any, Any] = numpy.frombuffer(data, dtype=f"<u{width}")
    number = bits.dtype.type
    step = _BLOCK // width
    # Blocks that fit the processor's cache make this faster than reading the file.
    room = numpy.empty(min(step, len(bits)), dtype=bits.dtype)
    bad = 0
    for start in range(0, len(bits), step):
        block = bits[start : start + step]
        masked = numpy.bitwise_and(block, number(mask), out=room[: len(block)])
        bad += int(numpy.count_nonzero(masked == number(want)))
    return bad
