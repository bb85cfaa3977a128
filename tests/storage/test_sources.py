"""Comparing tensors byte by byte, however their bytes are cut into pieces."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from si_hub.errors import MissingFile, TruncatedFile
from si_hub.storage.sources import Comparison
from si_hub.storage.tensors import CHUNK, Held, Span, Tensor


def in_pieces(data: bytes, cuts: list[int]) -> Tensor:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    pieces = tuple(Held(data[start:stop]) for start, stop in pairwise(places))
    return Tensor("U8", (len(data),), pieces)


@given(st.binary(max_size=40), st.binary(max_size=40), st.lists(st.integers(0, 40)), st.lists(st.integers(0, 40)))
def test_tensors_are_the_same_when_their_bytes_are(one: bytes, other: bytes, cuts: list[int], more: list[int]) -> None:
    with Comparison() as comparison:
        assert comparison.same(in_pieces(one, cuts), in_pieces(other, more)) == (one == other)
        assert comparison.same(in_pieces(one, cuts), in_pieces(one, more))


@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_the_last_byte_of_a_file_counts(size: int, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(bytes(size))
    (tmp_path / "other").write_bytes(bytes(size - 1) + b"\1")
    one, other = (Tensor("U8", (size,), (Span(tmp_path / name, 0, size),)) for name in ("one", "other"))
    with Comparison() as comparison:
        assert comparison.same(one, Tensor.from_bytes("U8", (size,), bytes(size)))
        assert not comparison.same(one, other)


def test_a_nan_is_itself_and_a_file_that_went_is_named(tmp_path: Path) -> None:
    nan = struct.pack("<f", float("nan"))
    with Comparison() as comparison:
        assert comparison.same(Tensor.from_bytes("F32", (1,), nan), Tensor.from_bytes("F32", (1,), nan))
        gone = Tensor("F32", (1,), (Span(tmp_path / "gone", 0, 4),))
        with pytest.raises(MissingFile, match="gone"):
            comparison.same(gone, gone)
        (tmp_path / "short").write_bytes(b"\0")
        short = Tensor("F32", (1,), (Span(tmp_path / "short", 0, 4),))
        with pytest.raises(TruncatedFile, match="short"):
            comparison.same(short, short)
