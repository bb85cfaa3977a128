from __future__ import annotations

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from si_hub.storage.finite import count_bad
from si_hub.storage.tensors import DTYPE_SIZES

#: Every bit pattern of the small dtypes is checked against torch's own reading of it.
SMALL = {
    "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz, "F8_E8M0": torch.float8_e8m0fnu,
}  # fmt: skip


@pytest.mark.parametrize("dtype", SMALL)
def test_every_bit_pattern_is_judged_as_torch_judges_it(dtype: str) -> None:
    width = DTYPE_SIZES[dtype]
    patterns = torch.arange(256**width).to(torch.int16 if width == 2 else torch.uint8)
    finite = torch.isfinite(patterns.view(SMALL[dtype]).float())
    raw = patterns.numpy().tobytes()
    assert count_bad(dtype, raw) == int((~finite).sum())
    for index in (~finite).nonzero().flatten().tolist()[:3] + finite.nonzero().flatten().tolist()[:3]:
        assert count_bad(dtype, raw[index * width : index * width + width]) == int(not finite[index])


@pytest.mark.parametrize(("dtype", "kind"), [("F32", "<f4"), ("F64", "<f8")])
@given(data=st.data())
def test_wide_floats_are_judged_as_numpy_judges_them(dtype: str, kind: str, data: st.DataObject) -> None:
    width = DTYPE_SIZES[dtype]
    raw = data.draw(st.binary(max_size=20).map(lambda b: b * width))
    edges = b"".join(numpy.array(x, kind).tobytes() for x in data.draw(st.lists(st.floats(width=32), max_size=9)))
    raw += edges
    assert count_bad(dtype, raw) == int((~numpy.isfinite(numpy.frombuffer(raw, kind))).sum())


def test_complex_numbers_count_both_parts() -> None:
    array = numpy.array([1 + 1j, complex(float("nan"), 1), complex(float("inf"), float("-inf"))], "<c8")
    assert count_bad("C64", array.tobytes()) == 3


@pytest.mark.parametrize("dtype", ["I64", "U8", "BOOL"])
def test_integers_are_always_finite(dtype: str) -> None:
    assert count_bad(dtype, b"\xff" * 64) == 0


def test_the_last_number_of_a_large_block_is_seen() -> None:
    array = numpy.zeros(1_000_001, "<f2")
    array[[0, 131_071, 131_072, 1_000_000]] = numpy.nan
    assert count_bad("F16", memoryview(array.tobytes())) == 4
