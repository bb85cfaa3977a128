"""safetensors files written as a stream: read, scanned, hashed and written in one pass, the same bytes every time."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from si_hub.errors import BadMetadata, FileAccessError, HeaderTooLarge, NotFinite, NotUtf8
from si_hub.storage.files import atomic_file, open_regular
from si_hub.storage.finite import count_bad
from si_hub.storage.header import HEADER_LIMIT
from si_hub.storage.sources import Sources
from si_hub.storage.system import drop_cached, reserve_space, write_at
from si_hub.storage.tensors import CHUNK, DTYPE_SIZES, Span, Tensor
from si_hub.words import keep_words

_BUFFERS = 8
_WINDOW = 128 << 20
#: dtypes in the order of the library's own data sections.
_LIBRARY_ORDER = (
    "U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16", "F8_E4M3", "F8_E5M2", "I8", "U8",
    "BOOL",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Digests:
    """SHA-256 in hexadecimal: of the data section, and of the source file if one was to be hashed."""

    tensors: str
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """A file that was written: where, how long, and its digests."""

    path: Path
    size: int
    digests: Digests


#: Metadata that carry digests are a function of them; every digest has 64 digits, so the header's size is known before.
Metadata = Mapping[str, str] | Callable[[Digests], Mapping[str, str]]


def write_safetensors(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Metadata,
    *,
    lead: Sequence[str] = (),
    overwrite: bool = False,
    check_finite: bool = True,
    as_library: bool = False,
    hash_source: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Stored:
    """Write a safetensors file; the same tensors and metadata give the same bytes on every machine.

    The header has ``__metadata__`` first (the keys of ``lead``, then the others sorted), then the tensors in the
    order of their data: by element size descending, then by name.

    Args:
        path: the file to write; appears whole or not at all.
        tensors: by name.
        metadata: text by key, or a function from the digests to that (called first with zeros for its length).
        lead: metadata keys that stand before the others.
        overwrite: whether an existing file may be replaced.
        check_finite: whether NaN or infinity in a tensor is an error.
        as_library: order the data of numbers of one size as the safetensors library does, by dtype and then by name:
            hashes of the data are then those that other programs compute of the same tensors.
        hash_source: a file to hash at the same time, in a thread.
        progress: called with (bytes done, bytes in all).

    Raises:
        NotFinite: names the tensor and how many of its numbers are NaN or infinite.
        BadMetadata, NotUtf8, HeaderTooLarge: a header that no reader could take.
        TruncatedFile, MissingFile, FileAccessError: a source that ended early; a source or target without access.
    """
    path = Path(path)
    kinds = _LIBRARY_ORDER if as_library else ()

    def place(item: tuple[str, Tensor]) -> tuple[int, int, str]:
        dtype = item[1].dtype
        return -DTYPE_SIZES[dtype], kinds.index(dtype) if dtype in kinds else len(kinds), item[0]

    ordered = dict(sorted(tensors.items(), key=place))
    zeros = "0" * 64
    draft = header_bytes(ordered, _resolve(metadata, Digests(zeros, zeros if hash_source else None)), lead)
    with atomic_file(path, overwrite) as file, ThreadPoolExecutor(1) as side:
        stop = threading.Event()
        source = side.submit(keep_words(_hash_file), hash_source, stop) if hash_source else None
        try:
            reserve_space(file.fileno(), len(draft) + sum(tensor.nbytes for tensor in ordered.values()))
            stream = _Stream(file.fileno(), len(draft), check_finite, path, progress)
            digests = Digests(stream.write_all(ordered), source.result() if source else None)
        finally:
            stop.set()
        header = header_bytes(ordered, _resolve(metadata, digests), lead)
        if len(header) != len(draft):
            raise ValueError("metadata changed its length with the digests")
        write_at(file.fileno(), memoryview(header), 0)
        size = os.fstat(file.fileno()).st_size
    return Stored(path, size, digests)


def header_bytes(ordered: Mapping[str, Tensor], metadata: Mapping[str, str], lead: Sequence[str] = ()) -> bytes:
    """The 8-byte length and the JSON header, padded with spaces to a multiple of 8 as the safetensors library does.

    Raises:
        BadMetadata, NotUtf8, HeaderTooLarge: what no reader could take.
    """
    for key, text in metadata.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise BadMetadata("metadata are text by text", key=str(key), found=type(text).__name__)
    keys = [key for key in lead if key in metadata] + sorted(set(metadata) - set(lead))
    table: dict[str, object] = {"__metadata__": {key: metadata[key] for key in keys}} if metadata else {}
    at = 0
    for name, tensor in ordered.items():
        if name == "__metadata__":
            raise ValueError("__metadata__ is no name for a tensor")
        table[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, at + tensor.nbytes]}
        at += tensor.nbytes
    try:
        raw = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError as error:
        raise NotUtf8(
            "a metadata text or a tensor name has half a surrogate pair", key=repr(error.object[:60])
        ) from error
    raw += b" " * (-len(raw) % 8)
    if len(raw) > HEADER_LIMIT:
        raise HeaderTooLarge(
            "no reader takes a header like this", expected=f"at most {HEADER_LIMIT} bytes", found=len(raw)
        )
    return len(raw).to_bytes(8, "little") + raw


def _resolve(metadata: Metadata, digests: Digests) -> Mapping[str, str]:
    return metadata(digests) if callable(metadata) else metadata


@dataclass(slots=True)
class _Buffer:
    """A buffer, and the work on it that must end before it is filled again."""

    room: bytearray = field(default_factory=lambda: bytearray(CHUNK))
    busy: list[Future[None]] = field(default_factory=list)

    def wait(self) -> None:
        for work in self.busy:
            work.result()
        self.busy = []


@dataclass(slots=True)
class _Stream:
    """The data section: this thread reads and scans, one thread hashes, one writes; all of it outside the GIL."""

    target: int
    start: int
    check_finite: bool
    path: Path
    progress: Callable[[int, int], None] | None

    def write_all(self, ordered: Mapping[str, Tensor]) -> str:
        """Write the data of ``ordered`` from byte ``start`` on; returns the SHA-256 in hexadecimal."""
        digest = hashlib.sha256()
        total, done = sum(tensor.nbytes for tensor in ordered.values()), 0
        buffers = [_Buffer() for _ in range(min(_BUFFERS, 1 + total // CHUNK))]
        with ThreadPoolExecutor(1) as hasher, ThreadPoolExecutor(1) as writer, Sources() as sources:
            filling = self._fill(ordered, buffers, sources)
            for buffer, length in filling:
                full = memoryview(buffer.room)[:length]
                buffer.busy = [
                    hasher.submit(digest.update, full),
                    writer.submit(_write_behind, self.target, full, self.start + done),
                ]
                done += length
                if self.progress:
                    self.progress(done, total)
            for buffer in buffers:
                buffer.wait()
        return digest.hexdigest()

    def _fill(
        self, ordered: Mapping[str, Tensor], buffers: list[_Buffer], sources: Sources
    ) -> Iterator[tuple[_Buffer, int]]:
        """Buffers filled across the borders of tensors, since an SDXL LoRA has thousands of small ones."""
        turn, used = 0, 0
        bad = 0
        for name, tensor in ordered.items():
            for piece in tensor.pieces:
                taken = 0
                while taken < piece.length:
                    buffer = buffers[turn % len(buffers)]
                    if used == 0:
                        buffer.wait()
                    count = min(CHUNK - used, piece.length - taken)
                    room = memoryview(buffer.room)[used : used + count]
                    sources.read(piece, taken, room)
                    # Larger elements come first, so no element ever lies across the border of two buffers.
                    if self.check_finite:
                        bad += count_bad(tensor.dtype, room)
                    taken, used = taken + count, used + count
                    if used == CHUNK:
                        yield buffer, used
                        turn, used = turn + 1, 0
            if bad:
                raise NotFinite(
                    f"{bad} of {tensor.count} numbers are NaN or infinite", file=_origin(tensor) or self.path, key=name,
                    hint="Training or a download damaged it; take another copy.",
                )  # fmt: skip
        if used:
            yield buffers[turn % len(buffers)], used


def _origin(tensor: Tensor) -> Path | None:
    return next((piece.path for piece in tensor.pieces if isinstance(piece, Span)), None)


def _write_behind(target: int, data: memoryview, at: int) -> None:
    """Write, and let the kernel bring it to the disk meanwhile: the fsync at the end has nothing left to wait for.

    What is on the disk already leaves memory but for the last `_WINDOW` bytes, so that writing gigabytes neither
    asks the machine for gigabytes of memory nor drives a base model out of it.
    """
    write_at(target, data, at)
    for start in (at, at - _WINDOW):
        if start >= 0:
            drop_cached(target, start, len(data))


def _hash_file(path: Path, stop: threading.Event) -> str:
    digest = hashlib.sha256()
    room = memoryview(bytearray(CHUNK))
    with os.fdopen(open_regular(path), "rb", buffering=0) as file:
        try:
            while not stop.is_set() and (count := file.readinto(room)):
                digest.update(room[:count])
        except OSError as error:
            raise FileAccessError(f"cannot be read: {error.strerror}", file=path) from error
    return digest.hexdigest()
