"""A tensor as a description of where its bytes are: nothing is read until somebody asks.

Converting a plain LoRA moves gigabytes without decoding one number, so the currency of every room is this
description, not an array. Slicing along the first axis, reshaping and concatenating cost nothing.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from si_hub.errors import FileAccessError, TruncatedFile
from si_hub.storage.files import open_regular
from si_hub.storage.system import read_at, read_into

if TYPE_CHECKING:
    import numpy
    import torch

#: Bytes per element of every dtype that safetensors defines with whole bytes.
DTYPE_SIZES: dict[str, int] = {
    "F64": 8, "I64": 8, "U64": 8, "C64": 8,
    "F32": 4, "I32": 4, "U32": 4,
    "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1,
    "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip

CHUNK = 4 << 20


class FileState(NamedTuple):
    """What tells a file from one that was written anew: which it is, its size, and when it was written to."""

    number: int
    size: int
    written: int


def file_state(file: int | Path) -> FileState:
    """The state of a file, open or by its path; OSError where there is none."""
    found = os.stat(file)
    return FileState(found.st_ino, found.st_size, found.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Span:
    """``length`` bytes of ``path`` from ``offset``; where ``state`` is known, of the file as it was then alone."""

    path: Path
    offset: int
    length: int
    state: FileState | None = field(default=None, compare=False)

    def cut(self, start: int, stop: int) -> Span:
        return Span(self.path, self.offset + start, stop - start, self.state)

    def open_unchanged(self) -> int:
        """A descriptor of the file.

        Raises:
            MissingFile, FileAccessError: it cannot be opened, or was written anew since.
        """
        descriptor = open_regular(self.path)
        try:
            self.check(file_state(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def check(self, now: FileState) -> None:
        """Raise TruncatedFile or FileAccessError where the file is not as it was."""
        if self.state is None or now == self.state:
            return
        if now.size < self.offset + self.length:
            raise TruncatedFile("was cut after its header was read", file=self.path, found=f"{now.size} bytes")
        raise FileAccessError("was written anew after its header was read", file=self.path, hint="Open it again.")

    def chunks(self, size: int = CHUNK) -> Iterator[bytes]:
        """The bytes in pieces of ``size``; TruncatedFile, MissingFile or FileAccessError where they cannot be had."""
        descriptor = self.open_unchanged()
        try:
            done = 0
            while done < self.length:
                with telling_reads(self.path):
                    piece = read_at(descriptor, min(size, self.length - done), self.offset + done)
                if not piece:
                    raise ended_early(self.path, self.offset + done)
                done += len(piece)
                yield piece
        finally:
            os.close(descriptor)

    def fill(self, room: memoryview) -> None:
        """Fill ``room``, as long as the span, with its bytes; errors as of `chunks`."""
        with OpenFiles() as files:
            files.fill(self, room)


class OpenFiles:
    """Files that stay open while many of their spans are read, in the body of a with-statement."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}

    def __enter__(self) -> OpenFiles:
        return self

    def __exit__(self, *error: object) -> None:
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def fill(self, span: Span, room: memoryview) -> None:
        """Fill ``room``, as long as the span, with its bytes; errors as of `Span.chunks`."""
        descriptor = self._descriptors.get(span.path)
        if descriptor is None:
            descriptor = self._descriptors[span.path] = span.open_unchanged()
        else:
            span.check(file_state(descriptor))
        fill_room(descriptor, room, span.offset, span.path)


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes that are in memory: computed tensors, scalars."""

    data: bytes

    @property
    def length(self) -> int:
        return len(self.data)

    def cut(self, start: int, stop: int) -> Held:
        return Held(self.data[start:stop])

    def chunks(self, size: int = CHUNK) -> Iterator[bytes]:
        for start in range(0, len(self.data), size):
            yield self.data[start : start + size]

    def fill(self, room: memoryview) -> None:
        """Fill ``room``, as long as the bytes, with them."""
        room[:] = self.data


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """Bytes that are computed when they are read, and not kept: the part from ``start`` of what ``make`` gives.

    ``make`` gives the same bytes whenever it is asked. Equal only to itself.
    """

    length: int
    make: Callable[[], bytes]
    start: int = 0

    def cut(self, start: int, stop: int) -> Computed:
        return Computed(stop - start, self.make, self.start + start)

    def chunks(self, size: int = CHUNK) -> Iterator[bytes]:
        data = self.make()
        for start in range(self.start, self.start + self.length, size):
            yield data[start : min(start + size, self.start + self.length)]

    def fill(self, room: memoryview) -> None:
        """Fill ``room``, as long as the bytes, with them."""
        room[:] = memoryview(self.make())[self.start : self.start + self.length]


@dataclass(frozen=True, slots=True)
class Scaled:
    """Whole numbers of one byte, each row times its scale, as float32 numbers: computed when they are read.

    Attributes:
        whole: I8 ``[rows, ...]``.
        scale: F32 ``[rows]``; ``None`` for the whole numbers as they are.
    """

    whole: Tensor
    scale: Tensor | None = None

    @property
    def length(self) -> int:
        return 4 * self.whole.count

    def cut(self, start: int, stop: int) -> Computed:
        return Computed(stop - start, self._multiply, start)

    def chunks(self, size: int = CHUNK) -> Iterator[bytes]:
        return Computed(self.length, self._multiply).chunks(size)

    def fill(self, room: memoryview) -> None:
        """Fill ``room``, as long as the numbers, with them."""
        room[:] = self._multiply()

    def _multiply(self) -> bytes:
        values = self.whole.numpy().astype("<f4")
        if self.scale is not None:
            values *= self.scale.numpy().reshape(-1, *[1] * (values.ndim - 1))
        return values.tobytes()


Piece = Span | Held | Computed | Scaled


@dataclass(frozen=True, slots=True)
class Tensor:
    """dtype (safetensors' name), shape, and the pieces that hold the row-major little-endian bytes in order."""

    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_SIZES or any(size < 0 for size in self.shape):
            raise ValueError(f"no tensor is {self.dtype} {list(self.shape)}")
        held = sum(piece.length for piece in self.pieces)
        if held != self.nbytes:
            raise ValueError(f"{self.dtype} {list(self.shape)} needs {self.nbytes} bytes, the pieces hold {held}")

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.count * DTYPE_SIZES[self.dtype]

    @classmethod
    def from_bytes(cls, dtype: str, shape: Sequence[int], data: bytes) -> Tensor:
        return cls(dtype, tuple(shape), (Held(data),))

    @classmethod
    def scalar(cls, value: float) -> Tensor:
        """A float32 scalar; raises ValueError where ``value`` is beyond float32."""
        try:
            return cls("F32", (), (Held(struct.pack("<f", value)),))
        except OverflowError as error:
            raise ValueError(f"{value} does not fit float32") from error

    @classmethod
    def compute(cls, shape: Sequence[int], values: Callable[[], torch.Tensor]) -> Tensor:
        """A float32 tensor whose values are computed when they are read, each time anew.

        Args:
            values: gives them in ``shape``, in any floating-point dtype; ValueError where the shape is another one.
        """

        def make() -> bytes:
            found = values()
            if tuple(found.shape) != tuple(shape):
                raise ValueError(f"{list(shape)} was to be computed, {list(found.shape)} came out")
            return cls.from_torch(found.float()).tobytes()

        return cls("F32", tuple(shape), (Computed(4 * math.prod(shape), make),))

    @classmethod
    def scaled(cls, whole: Tensor, scale: Tensor | None = None) -> Tensor:
        """I8 ``whole [rows, ...]`` as float32 numbers, each row times its F32 ``scale [rows]``; see `unscaled`."""
        if whole.dtype != "I8" or (scale is not None and (scale.dtype, scale.shape) != ("F32", whole.shape[:1])):
            raise ValueError(f"no F32 scale for each row of I8: {whole.dtype} {list(whole.shape)}, {scale}")
        return cls("F32", whole.shape, (Scaled(whole, scale),))

    @property
    def unscaled(self) -> Scaled | None:
        """What `scaled` was given, where this is its tensor, whole and of the same shape."""
        first = self.pieces[0] if len(self.pieces) == 1 else None
        return first if isinstance(first, Scaled) and first.whole.shape == self.shape else None

    @classmethod
    def from_torch(cls, tensor: torch.Tensor) -> Tensor:
        """A copy of the values; ValueError for dtypes that safetensors does not have."""
        import torch

        if tensor.dtype not in torch_names():
            raise ValueError(f"safetensors has no {tensor.dtype}")
        plain = tensor.detach().to("cpu").contiguous()
        raw = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
        return cls(torch_names()[plain.dtype], tuple(plain.shape), (Held(raw),))

    @classmethod
    def from_numpy(cls, array: numpy.ndarray[Any, Any]) -> Tensor:
        """A copy of the values; ValueError for dtypes that safetensors does not have."""
        little = array.dtype.newbyteorder("<")
        name = {value: key for key, value in _NUMPY_NAMES.items()}.get(little.str)
        if name is None:
            raise ValueError(f"safetensors has no {array.dtype}")
        return cls(name, array.shape, (Held(array.astype(little).tobytes()),))

    def reshape(self, *shape: int) -> Tensor:
        """The same bytes under another shape; ValueError where the sizes differ."""
        return replace(self, shape=tuple(shape))

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` of the first axis, without reading them."""
        if not self.shape or not 0 <= start <= stop <= self.shape[0]:
            raise ValueError(f"rows {start}:{stop} of {list(self.shape)}")
        row = DTYPE_SIZES[self.dtype] * math.prod(self.shape[1:])
        return Tensor(self.dtype, (stop - start, *self.shape[1:]), _cut_pieces(self.pieces, start * row, stop * row))

    @classmethod
    def concatenate(cls, tensors: Sequence[Tensor]) -> Tensor:
        """Joined along the first axis, without reading; ValueError where dtypes or other axes differ."""
        if not tensors or not tensors[0].shape:
            raise ValueError("nothing to join: no tensors, or scalars")
        first = tensors[0]
        if any((t.dtype, t.shape[1:]) != (first.dtype, first.shape[1:]) for t in tensors):
            raise ValueError(f"cannot join {[(t.dtype, t.shape) for t in tensors]}")
        rows = sum(t.shape[0] for t in tensors)
        return cls(first.dtype, (rows, *first.shape[1:]), tuple(p for t in tensors for p in t.pieces))

    def chunks(self, size: int = CHUNK) -> Iterator[bytes]:
        for piece in self.pieces:
            yield from piece.chunks(size)

    def tobytes(self) -> bytes:
        return b"".join(self.chunks())

    def item(self) -> float:
        """The one number of a tensor with one element (an alpha), as a float; torch is not needed for it."""
        if self.count != 1:
            raise ValueError(f"one element expected, shape is {list(self.shape)}")
        raw = self.tobytes()
        if self.dtype == "BF16":
            return float(struct.unpack("<f", b"\0\0" + raw)[0])
        if self.dtype == "BOOL":
            return float(raw != b"\0")
        if self.dtype not in _STRUCT_CODES:
            raise ValueError(f"a scalar of dtype {self.dtype} is not supported")
        return float(struct.unpack("<" + _STRUCT_CODES[self.dtype], raw)[0])

    def torch(self, files: OpenFiles | None = None) -> torch.Tensor:
        """The values as a torch tensor of its own memory.

        Never mapped: a file that is written anew while a pipeline runs would change its pictures, or end its process.

        Args:
            files: where files stay open for the next tensor.
        """
        import torch

        values = torch.empty(self.shape, dtype=torch_dtypes()[self.dtype])
        if self.count:
            room, at = memory_of(values), 0
            for piece in self.pieces:
                part = room[at : at + piece.length]
                if files is not None and isinstance(piece, Span):
                    files.fill(piece, part)
                else:
                    piece.fill(part)
                at += piece.length
        return values

    def numpy(self) -> numpy.ndarray[Any, Any]:
        """The values as a numpy array; ValueError for dtypes that numpy does not have (BF16, float8)."""
        import numpy

        if self.dtype not in _NUMPY_NAMES:
            raise ValueError(f"numpy has no {self.dtype}")
        return numpy.frombuffer(self.tobytes(), dtype=_NUMPY_NAMES[self.dtype]).reshape(self.shape)


@contextmanager
def telling_reads(path: Path) -> Iterator[None]:
    """What the system says of a read that fails becomes ours."""
    try:
        yield
    except OSError as error:
        raise FileAccessError(f"cannot be read: {error.strerror}", file=path) from error


def ended_early(path: Path, at: int) -> TruncatedFile:
    """The error of a file that has no byte ``at`` any more."""
    return TruncatedFile("ended while it was read", file=path, found=f"{at} bytes")


def fill_room(descriptor: int, room: memoryview, at: int, path: Path) -> None:
    """Fill ``room`` with the bytes of an open file from ``at`` on.

    Raises:
        FileAccessError, TruncatedFile: they cannot be had.
    """
    while room:
        with telling_reads(path):
            count = read_into(descriptor, room, at)
        if not count:
            raise ended_early(path, at)
        room, at = room[count:], at + count


def _cut_pieces(pieces: Sequence[Piece], start: int, stop: int) -> tuple[Piece, ...]:
    kept: list[Piece] = []
    at = 0
    for piece in pieces:
        low, high = max(start - at, 0), min(stop - at, piece.length)
        if low < high:
            kept.append(piece.cut(low, high))
        at += piece.length
    return tuple(kept)


_STRUCT_CODES = {
    "F64": "d", "F32": "f", "F16": "e", "I64": "q", "U64": "Q", "I32": "i", "U32": "I",
    "I16": "h", "U16": "H", "I8": "b", "U8": "B",
}  # fmt: skip

_NUMPY_NAMES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "U64": "<u8", "I32": "<i4", "U32": "<u4",
    "I16": "<i2", "U16": "<u2", "I8": "|i1", "U8": "|u1", "BOOL": "|b1", "C64": "<c8",
}  # fmt: skip


def memory_of(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU that has any, not a copy of them."""
    import torch

    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data


@cache
def torch_dtypes() -> dict[str, torch.dtype]:
    """The torch dtype of every name that safetensors has for one."""
    return {name: dtype for dtype, name in torch_names().items()}


@cache
def torch_names() -> dict[torch.dtype, str]:
    """safetensors' name of every torch dtype that it has."""
    import torch

    names = {
        "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
        "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL", "complex64": "C64", "uint16": "U16",
        "uint32": "U32", "uint64": "U64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
        "float8_e8m0fnu": "F8_E8M0", "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ",
    }  # fmt: skip
    return {getattr(torch, torch_name): name for torch_name, name in names.items() if hasattr(torch, torch_name)}
