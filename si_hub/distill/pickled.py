"""A PyTorch file's tensors as spans of its archive, before torch is imported; no code in the file can run.

Its index is a pickle, of which only what tensors are made of is understood: dictionaries, numbers, texts, and storages
by name. Whatever else a file holds is torch's to read or refuse.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from si_hub.errors import TruncatedFile
from si_hub.storage.tensors import DTYPE_SIZES, Span, Tensor

#: Bytes of an index; a million tensors take less.
_LIMIT = 200 << 20
#: The fixed part of a zip entry's own header; the last two fields are the lengths of its name and its extra field.
_LOCAL = struct.Struct("<4s5H3I2H")
_DTYPES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}  # fmt: skip


class _NotPlain(Exception):
    """The file holds something that only torch may know."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """A storage class by its dtype."""

    dtype: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """Numbers of one dtype that tensors are views of."""

    dtype: str
    span: Span


def read_tensors(path: Path) -> dict[Any, Any] | None:
    """What a PyTorch file holds, its tensors as `Tensor`; ``None`` where it takes torch to tell.

    Raises:
        TruncatedFile: an archive without its end.
        FileAccessError: it cannot be read.
    """
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return None
    try:
        with zipfile.ZipFile(path) as archive:
            held = _Index(path, archive).load()
    except zipfile.BadZipFile as error:
        raise TruncatedFile(
            "is a PyTorch file whose end is missing or damaged", file=path, hint="Download it again."
        ) from error
    except Exception:  # A stranger's pickle can be wrong in every way; torch says in which.
        return None
    return held if isinstance(held, dict) else None


class _Index(pickle._Unpickler):
    """The index of a PyTorch archive.

    In Python, since the quick unpickler allots whatever room a hostile file names.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self.archive = path, archive
        self.entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
        order = self.entries.get("byteorder")
        if self.entries["data.pkl"].file_size > _LIMIT or (order and archive.read(order) != b"little"):
            raise _NotPlain
        super().__init__(io.BytesIO(archive.read(self.entries["data.pkl"])))

    def find_class(self, module: str, name: str) -> Any:
        """What makes tensors, and nothing else."""
        if module == "torch" and name in _DTYPES:
            return _Kind(_DTYPES[name])
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
        }
        if (module, name) not in known:
            raise _NotPlain
        return known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        """A storage, whose bytes lie in the archive as they are."""
        what, kind, key, _, count = pid
        entry = self.entries[f"data/{key}"]
        size = count * DTYPE_SIZES[kind.dtype]
        if what != "storage" or entry.compress_type != zipfile.ZIP_STORED or entry.file_size != size:
            raise _NotPlain
        return _Storage(kind.dtype, Span(self.path, self._start(entry), size))

    def _start(self, entry: zipfile.ZipInfo) -> int:
        """Where an entry's bytes begin in the file."""
        assert self.archive.fp is not None
        self.archive.fp.seek(entry.header_offset)
        *_, name, extra = _LOCAL.unpack(self.archive.fp.read(_LOCAL.size))
        return entry.header_offset + _LOCAL.size + int(name) + int(extra)


def _tensor(storage: _Storage, offset: int, shape: Sequence[int], strides: Sequence[int], *_: Any) -> Tensor:
    """A view of a storage, if it is its numbers in order."""
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != step:
            raise _NotPlain
        step *= size
    item = DTYPE_SIZES[storage.dtype]
    start, length = offset * item, math.prod(shape) * item
    if min(offset, *shape, 0) < 0 or start + length > storage.span.length:
        raise _NotPlain
    return Tensor(storage.dtype, tuple(shape), (storage.span.cut(start, start + length),) if length else ())


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data
