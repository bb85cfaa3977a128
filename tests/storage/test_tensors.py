from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from si_hub import errors
from si_hub.storage.tensors import DTYPE_SIZES, Held, Span, Tensor

Array = numpy.ndarray[Any, Any]

NUMPY = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "U64": "<u8", "I32": "<i4", "U32": "<u4",
    "I16": "<i2", "U16": "<u2", "I8": "|i1", "U8": "|u1", "BOOL": "|b1", "C64": "<c8",
}  # fmt: skip
TORCH_ONLY = {
    "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}  # fmt: skip


def spread(array: Array, cuts: list[int], folder: Path) -> Tensor:
    """``array`` as a tensor of several pieces, every other one a span in the middle of a file."""
    raw = array.tobytes()
    edges = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    pieces: list[Span | Held] = []
    for index, (start, stop) in enumerate(itertools.pairwise(edges)):
        if index % 2:
            pieces.append(Held(raw[start:stop]))
        else:
            path = folder / f"piece{index}"
            path.write_bytes(b"before" + raw[start:stop] + b"behind")
            pieces.append(Span(path, 6, stop - start))
    name = {value: key for key, value in NUMPY.items()}[array.dtype.str]
    return Tensor(name, array.shape, tuple(pieces))


shapes = st.lists(st.integers(0, 5), min_size=1, max_size=4).map(tuple)
fuzz = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def numbered(shape: tuple[int, ...], dtype: str) -> Array:
    return numpy.arange(math.prod(shape)).astype(dtype).reshape(shape)


@fuzz
@given(
    shape=shapes,
    dtype=st.sampled_from(sorted(set(NUMPY.values()) - {"|b1"})),
    cuts=st.lists(st.integers(0, 999), max_size=4),
    data=st.data(),
)
def test_rows_are_numpys_rows(
    shape: tuple[int, ...], dtype: str, cuts: list[int], data: st.DataObject, tmp_path: Path
) -> None:
    array = numbered(shape, dtype)
    tensor = spread(array, cuts, tmp_path)
    start = data.draw(st.integers(0, shape[0]))
    stop = data.draw(st.integers(start, shape[0]))
    rows = tensor.rows(start, stop)
    assert rows.shape == (stop - start, *shape[1:])
    numpy.testing.assert_array_equal(rows.numpy(), array[start:stop])
    numpy.testing.assert_array_equal(rows.torch().numpy(), array[start:stop])


@fuzz
@given(
    heights=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    rest=st.lists(st.integers(0, 4), max_size=2),
    cuts=st.lists(st.integers(0, 99), max_size=3),
)
def test_concatenate_is_numpys(heights: list[int], rest: list[int], cuts: list[int], tmp_path: Path) -> None:
    arrays = [numbered((height, *rest), "<f4") + index for index, height in enumerate(heights)]
    tensors = []
    for index, array in enumerate(arrays):
        (folder := tmp_path / str(index)).mkdir(exist_ok=True)
        tensors.append(spread(array.astype("<f4"), cuts, folder))
    joined = Tensor.concatenate(tensors)
    numpy.testing.assert_array_equal(joined.numpy(), numpy.concatenate(arrays).astype("<f4"))
    numpy.testing.assert_array_equal(joined.torch().numpy(), numpy.concatenate(arrays).astype("<f4"))


@fuzz
@given(shape=shapes, cuts=st.lists(st.integers(0, 99), max_size=3), data=st.data())
def test_rows_put_together_again_are_the_tensor(
    shape: tuple[int, ...], cuts: list[int], data: st.DataObject, tmp_path: Path
) -> None:
    tensor = spread(numbered(shape, "<i2"), cuts, tmp_path)
    at = data.draw(st.integers(0, shape[0]))
    again = Tensor.concatenate([tensor.rows(0, at), tensor.rows(at, shape[0])])
    assert (again.shape, again.tobytes()) == (tensor.shape, tensor.tobytes())


@fuzz
@given(shape=shapes)
def test_reshape_keeps_the_bytes(shape: tuple[int, ...], tmp_path: Path) -> None:
    array = numbered(shape, "<f8")
    tensor = spread(array, [5], tmp_path)
    numpy.testing.assert_array_equal(tensor.reshape(array.size).numpy(), array.reshape(-1))
    numpy.testing.assert_array_equal(tensor.reshape(1, *shape, 1).numpy(), array.reshape(1, *shape, 1))
    with pytest.raises(ValueError, match="bytes"):
        tensor.reshape(array.size + 1)


@fuzz
@given(content=st.binary(max_size=300), size=st.integers(1, 40), cuts=st.lists(st.integers(0, 300), max_size=3))
def test_chunks_are_the_bytes_in_order_and_never_longer_than_asked(
    content: bytes, size: int, cuts: list[int], tmp_path: Path
) -> None:
    chunks = list(spread(numpy.frombuffer(content, "|u1"), cuts, tmp_path).chunks(size))
    assert b"".join(chunks) == content
    assert all(0 < len(chunk) <= size for chunk in chunks)


@pytest.mark.parametrize("dtype", NUMPY)
def test_numpy_arrays_go_in_and_come_out(dtype: str) -> None:
    array = numpy.array([[0, 1, 1], [1, 0, 0]]).astype(NUMPY[dtype])
    tensor = Tensor.from_numpy(array)
    assert (tensor.dtype, tensor.shape, tensor.nbytes) == (dtype, (2, 3), 6 * DTYPE_SIZES[dtype])
    assert tensor.numpy().dtype == array.dtype
    numpy.testing.assert_array_equal(tensor.numpy(), array)
    numpy.testing.assert_array_equal(tensor.torch().numpy(), array)


@pytest.mark.parametrize("dtype", TORCH_ONLY)
def test_torch_tensors_go_in_and_come_out(dtype: str) -> None:
    values = torch.tensor([[0.5, -1.0], [2.0, 1.5]]).to(TORCH_ONLY[dtype])
    tensor = Tensor.from_torch(values)
    assert (tensor.dtype, tensor.shape) == (dtype, (2, 2))
    assert tensor.torch().dtype == values.dtype
    assert torch.equal(tensor.torch().float(), values.float())
    with pytest.raises(ValueError, match=f"numpy has no {dtype}"):
        tensor.numpy()


def test_views_are_taken_as_what_they_show() -> None:
    array = numpy.arange(12, dtype="<f4").reshape(3, 4)
    numpy.testing.assert_array_equal(Tensor.from_numpy(array.T[::-1]).numpy(), array.T[::-1])
    numpy.testing.assert_array_equal(Tensor.from_numpy(array.astype(">f4")).numpy(), array)
    shown = torch.arange(12.0).reshape(3, 4).T.requires_grad_()
    assert torch.equal(Tensor.from_torch(shown).torch(), shown.detach())
    assert Tensor.from_torch(torch.tensor(2.5)).shape == ()
    assert Tensor.from_torch(torch.zeros(0, 3)).torch().shape == (0, 3)


def test_dtypes_that_safetensors_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match="complex128"):
        Tensor.from_numpy(numpy.zeros(1, "<c16"))
    with pytest.raises(ValueError, match="object"):
        Tensor.from_numpy(numpy.array([None]))
    with pytest.raises(ValueError, match="complex128"):
        Tensor.from_torch(torch.zeros(1, dtype=torch.complex128))


def test_a_tensor_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="needs 8 bytes, the pieces hold 4"):
        Tensor.from_bytes("F32", (2,), bytes(4))
    with pytest.raises(ValueError, match="F31"):
        Tensor.from_bytes("F31", (1,), bytes(4))
    with pytest.raises(ValueError, match=r"\[-1, -1\]"):
        Tensor.from_bytes("F32", (-1, -1), bytes(4))


def test_rows_and_concatenate_refuse_what_makes_no_sense() -> None:
    tensor = Tensor.from_numpy(numpy.zeros((3, 2), "<f4"))
    for start, stop in ((-1, 2), (2, 1), (0, 4)):
        with pytest.raises(ValueError, match="rows"):
            tensor.rows(start, stop)
    with pytest.raises(ValueError, match="rows"):
        Tensor.scalar(1).rows(0, 0)
    with pytest.raises(ValueError, match="cannot join"):
        Tensor.concatenate([tensor, Tensor.from_numpy(numpy.zeros((3, 3), "<f4"))])
    with pytest.raises(ValueError, match="cannot join"):
        Tensor.concatenate([tensor, Tensor.from_numpy(numpy.zeros((3, 2), "<f2"))])
    for nothing in ([], [Tensor.scalar(1), Tensor.scalar(2)]):
        with pytest.raises(ValueError, match="nothing to join"):
            Tensor.concatenate(nothing)


@pytest.mark.parametrize(
    ("dtype", "raw", "value"),
    [
        ("F64", struct.pack("<d", 0.1), 0.1),
        ("F32", b"\0\0\x80\x3f", 1.0),
        ("F16", b"\0\xc0", -2.0),
        ("BF16", b"\x20\x41", 10.0),
        ("I64", struct.pack("<q", -(2**40)), -(2.0**40)),
        ("U64", struct.pack("<Q", 2**63), 2.0**63),
        ("I32", b"\xff\xff\xff\xff", -1.0),
        ("U32", b"\xff\xff\xff\xff", 4294967295.0),
        ("I16", b"\0\x80", -32768.0),
        ("U16", b"\0\x80", 32768.0),
        ("I8", b"\xff", -1.0),
        ("U8", b"\xff", 255.0),
        ("BOOL", b"\x01", 1.0),
        ("BOOL", b"\x00", 0.0),
    ],
)
def test_the_one_number_of_a_tensor_of_any_dtype(dtype: str, raw: bytes, value: float) -> None:
    assert Tensor.from_bytes(dtype, (), raw).item() == value
    assert Tensor.from_bytes(dtype, (1, 1), raw).item() == value


def test_item_refuses_several_numbers_and_float8() -> None:
    with pytest.raises(ValueError, match="one element expected"):
        Tensor.from_bytes("F32", (2,), bytes(8)).item()
    with pytest.raises(ValueError, match="F8_E4M3"):
        Tensor.from_bytes("F8_E4M3", (), b"\0").item()


@given(st.floats(width=32, allow_nan=False))
def test_a_scalar_is_its_float32(value: float) -> None:
    assert Tensor.scalar(value).item() == value
    assert Tensor.scalar(value).numpy() == numpy.float32(value)


def test_a_scalar_beyond_float32_is_refused() -> None:
    with pytest.raises(ValueError, match="float32"):
        Tensor.scalar(1e39)


def test_a_mapped_tensor_is_private_and_writable(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    path.write_bytes(bytes(8) + numpy.arange(4, dtype="<f4").tobytes())
    tensor = Tensor("F32", (4,), (Span(path, 8, 16),))
    values = tensor.torch()
    values += 1
    assert values.tolist() == [1, 2, 3, 4]
    assert tensor.torch().tolist() == [0, 1, 2, 3]
    assert path.read_bytes()[8:] == numpy.arange(4, dtype="<f4").tobytes()


@pytest.mark.parametrize("offset", [1, 3, 4097])
def test_a_tensor_at_an_odd_place_of_a_file_is_read_right(offset: int, tmp_path: Path) -> None:
    path = tmp_path / "odd"
    path.write_bytes(bytes(offset) + numpy.arange(5, dtype="<f4").tobytes())
    assert Tensor("F32", (5,), (Span(path, offset, 20),)).torch().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("read", [Tensor.tobytes, Tensor.numpy, Tensor.torch], ids=["bytes", "numpy", "torch"])
def test_a_file_that_changed_since_is_a_typed_error(read: Callable[[Tensor], object], tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    path.write_bytes(bytes(16))
    tensor = Tensor("F32", (4,), (Span(path, 0, 16),))
    path.write_bytes(bytes(12))
    with pytest.raises(errors.TruncatedFile, match="numbers"):
        read(tensor)
    path.unlink()
    with pytest.raises(errors.MissingFile, match="numbers"):
        read(tensor)
