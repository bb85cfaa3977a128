"""The safetensors header, read by hand under limits before a single tensor is touched.

Every rule of the container is one function here and one error of `si_hub.errors`, and each error names the offender.
"""

from __future__ import annotations

import gc
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from si_hub import errors
from si_hub.storage.files import open_regular
from si_hub.storage.system import read_at
from si_hub.storage.tensors import DTYPE_SIZES, FileState, Span, Tensor, file_state

#: Real headers have a few megabytes at most, most of it what a trainer counted; the safetensors library takes 100 MB.
HEADER_LIMIT = 32 << 20
#: More axes than numpy or torch can hold.
AXES_LIMIT = 64
#: Byte counts stay below this, as in every reader with 64-bit signed sizes.
SIZE_LIMIT = 1 << 63
#: Values in one header; a hundred thousand tensors have 800,000. Bounds memory, which JSON can multiply twentyfold.
VALUES_LIMIT = 1_000_000
#: Tensors of one adapter; the largest real ones have ten thousand.
TENSORS_LIMIT = 32_768
#: Covers the metadata and document of a StyleInject file, and the whole header of most adapters.
FIRST_READ = 100_000

_METADATA = "__metadata__"
#: Numbers that the safetensors library does not take, wherever in a header: minus zero, and beyond what a double holds.
_NO_SIZE = re.compile(rb"-0(?![0-9.eE])|(?<![0-9.])[0-9]{309}")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)

#: First bytes of what people rename to ``.safetensors``, with the way out.
_MAGICS: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a zip archive, perhaps a PyTorch pickle checkpoint", "Convert it to safetensors first."),
    (b"\x80\x02", "a pickle", "Pickles can run code; convert it to safetensors first."),
    (b"\x80\x03", "a pickle", "Pickles can run code; convert it to safetensors first."),
    (b"\x80\x04", "a pickle", "Pickles can run code; convert it to safetensors first."),
    (b"\x80\x05", "a pickle", "Pickles can run code; convert it to safetensors first."),
    (b"GGUF", "a GGUF model", "GGUF is not supported; take the safetensors release."),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "Fetch the file with `git lfs pull`."),
    (b"<!DOCTYPE", "an HTML page, perhaps a failed download", "Download it again; a login may be needed."),
    (b"<!doctype", "an HTML page, perhaps a failed download", "Download it again; a login may be needed."),
    (b"<html", "an HTML page, perhaps a failed download", "Download it again; a login may be needed."),
    (b"\x89HDF", "an HDF5 file", "Take the safetensors release."),
    (b"\x1f\x8b", "a gzip archive", "Unpack it first."),
    (b"Rar!", "a RAR archive", "Unpack it first."),
    (b"7z\xbc\xaf", "a 7-zip archive", "Unpack it first."),
    (b"{", "a JSON text", "Name the .safetensors file that belongs to it."),
)


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """What the header of a safetensors file says: metadata, and every tensor as a span of the file.

    Attributes:
        path: the file.
        size: bytes in the whole file.
        header_size: bytes of the JSON header, padding included, without the 8 bytes of its length.
        metadata: ``__metadata__``, empty where there is none.
        tensors: by name, in the header's order.
    """

    path: Path
    size: int
    header_size: int
    metadata: dict[str, str]
    tensors: dict[str, Tensor]

    @property
    def data_start(self) -> int:
        """Where the data section begins, from the start of the file."""
        return 8 + self.header_size


def read_safetensors(path: str | Path, *, watched: bool = True) -> SafetensorsFile:
    """Read and check the header of a safetensors file; tensor data is never touched.

    Args:
        path: the file.
        watched: whether its tensors are an error to read once the file was written anew.

    Raises:
        MissingFile, FileAccessError: no such file; a folder, a device, no permission.
        NotSafetensors, TruncatedFile, HeaderTooLarge: the file as a whole.
        HeaderSyntaxError (NotUtf8, NonFiniteNumber, TooDeep), DuplicateKey: the header as JSON.
        BadMetadata, BadTensorEntry (ImpossibleShape), UnknownDtype, ShapeSizeMismatch: one entry.
        OverlappingTensors, UnclaimedBytes: the entries together.
    """
    path = Path(path)
    descriptor = open_regular(path)
    try:
        state = file_state(descriptor)
        size = state.size
        head = read_at(descriptor, FIRST_READ, 0)
        length = header_length(head, size, path)
        if 8 + length > len(head):
            head += read_at(descriptor, 8 + length - len(head), len(head))
    except OSError as error:
        if isinstance(error, errors.SiHubError):
            raise
        raise errors.FileAccessError(f"cannot be read: {error.strerror}", file=path) from error
    finally:
        os.close(descriptor)
    if len(head) < 8 + length:
        raise errors.TruncatedFile("shrank while it was read", file=path)
    return parse_header(head[8 : 8 + length], size, path, state if watched else None)


def header_length(head: bytes, size: int, path: Path) -> int:
    """The JSON header's length in bytes, from the first bytes of a file of ``size`` bytes."""
    if size == 0:
        raise errors.NotSafetensors("is empty", file=path)
    length = int.from_bytes(head[:8], "little")
    # A length can look like a pickle's magic (640 is 80 02), so magics only explain what does not fit anyway.
    if len(head) < 9 or head[8:9] != b"{" or length > HEADER_LIMIT:
        for magic, what, hint in _MAGICS:
            if head.startswith(magic):
                raise errors.NotSafetensors(f"is {what}", file=path, hint=hint)
    if size < 10:
        raise errors.NotSafetensors("is too short", file=path, expected="10 bytes or more", found=size)
    if length > HEADER_LIMIT:
        raise errors.HeaderTooLarge(
            "the first 8 bytes give a header size beyond any real file's",
            file=path, expected=f"at most {HEADER_LIMIT} bytes", found=length,
        )  # fmt: skip
    if 8 + length > size:
        raise errors.TruncatedFile(
            "ends before its header does", file=path, expected=f"{8 + length} bytes or more", found=size,
            hint="Download it again.",
        )  # fmt: skip
    if head[8:9] != b"{":
        raise errors.HeaderSyntaxError("the header does not begin with {", file=path, found=repr(head[8:24]))
    return length


def parse_header(raw: bytes, size: int, path: Path, state: FileState | None = None) -> SafetensorsFile:
    """Check the JSON header ``raw`` of a file of ``size`` bytes; pure, so that a ranged download can use it."""
    if len(raw) > HEADER_LIMIT:
        raise errors.HeaderTooLarge(
            "the header is larger than any real file's", file=path, expected=f"at most {HEADER_LIMIT}", found=len(raw)
        )
    if (values := _count_values(raw)) > VALUES_LIMIT:
        raise errors.HeaderTooLarge(
            "the header has more values than any real file's",
            file=path,
            expected=f"at most {VALUES_LIMIT}",
            found=values,
        )
    with _uncollected():
        return _parse_header(raw, size, path, state)


@contextmanager
def _uncollected() -> Iterator[None]:
    """While tables of names are made no cycles are, and looking for some would take most of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _count_values(raw: bytes) -> int:
    """About how many values a text of JSON has: those outside of its strings, where there are too many inside."""
    count = _count_marks(raw)
    return count if count <= VALUES_LIMIT else _count_marks(_STRING.sub(b"", raw))


def _count_marks(raw: bytes) -> int:
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def _parse_header(raw: bytes, size: int, path: Path, state: FileState | None) -> SafetensorsFile:
    if _NO_SIZE.search(raw) and (number := _NO_SIZE.search(_STRING.sub(b'""', raw))):
        raise errors.HeaderSyntaxError("the header has an absurd number", file=path, found=number[0][:20].decode())
    header = parse_json(raw, file=path, what="the header")
    if not isinstance(header, dict):
        raise errors.HeaderSyntaxError("the header is not a JSON object", file=path)
    metadata = _metadata(header.pop(_METADATA, {}), path)
    start = 8 + len(raw)
    tensors = {name: _tensor(name, entry, start, path, state) for name, entry in header.items()}
    _check_tiling(tensors, start, size, path)
    return SafetensorsFile(path, size, len(raw), metadata, tensors)


def parse_json(
    raw: bytes,
    *,
    file: Path | None,
    what: str,
    key: str | None = None,
    parse_int: Callable[[str], int | float] = int,
    finite: bool = True,
) -> Any:
    """JSON without what JSON forbids or leaves open: duplicate keys, NaN, bytes that are not UTF-8, lone surrogates.

    NaN and infinity pass where ``finite`` is not asked for: diffusers itself writes them into schedulers' settings.
    """

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
            raise errors.DuplicateKey(f"the same key twice in {what}", file=file, key=twice)
        return result

    def constant(text: str) -> float:
        if not finite:
            return float(text)
        raise errors.NonFiniteNumber(f"{what} has a number that JSON does not have", file=file, key=key, found=text)

    def real(text: str) -> float:
        value = float(text)
        return value if math.isfinite(value) else constant(text[:40])

    def whole(text: str) -> int | float:
        value = parse_int(text)
        return value if type(value) is int else real(text)

    try:
        text = raw.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=table,
            parse_constant=constant,
            parse_float=real,
            parse_int=None if parse_int is int else whole,
        )
        # JSON can spell half a surrogate pair, which no UTF-8 text can hold: such a name could never be printed.
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise errors.NotUtf8(f"{what} is not UTF-8 at byte {error.start}", file=file, key=key) from error
    except UnicodeEncodeError as error:
        raise errors.NotUtf8(f"{what} has half a surrogate pair", file=file, key=key) from error
    except RecursionError as error:
        raise errors.TooDeep(f"{what} is nested too deeply", file=file, key=key) from error
    except json.JSONDecodeError as error:
        raise errors.HeaderSyntaxError(f"{what} is not JSON: {error.msg} at {error.pos}", file=file, key=key) from error
    except errors.SiHubError:
        raise
    except ValueError as error:  # an integer of more digits than Python converts
        raise errors.HeaderSyntaxError(f"{what} has an absurd number", file=file, key=key) from error
    return value


def _metadata(value: object, path: Path) -> dict[str, str]:
    if not isinstance(value, dict):
        raise errors.BadMetadata("is not an object", file=path, key=_METADATA, found=type(value).__name__)
    for key, text in value.items():
        if not isinstance(text, str):
            raise errors.BadMetadata(
                "a metadata value must be text", file=path, key=f"{_METADATA}.{key}", found=type(text).__name__
            )
    return value


def _tensor(name: str, entry: object, start: int, path: Path, state: FileState | None) -> Tensor:
    if not isinstance(entry, dict):
        raise errors.BadTensorEntry("is not an object", file=path, key=name, found=type(entry).__name__)
    for part in ("dtype", "shape", "data_offsets"):
        if part not in entry:
            raise errors.BadTensorEntry(f"has no {part}", file=path, key=name)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str):
        raise errors.BadTensorEntry("dtype is not text", file=path, key=name, found=type(dtype).__name__)
    if dtype not in DTYPE_SIZES:
        raise errors.UnknownDtype("unknown dtype", file=path, key=name, expected=_one_of(DTYPE_SIZES), found=dtype[:40])
    if not _sizes(shape):
        raise errors.BadTensorEntry("shape is not a list of sizes", file=path, key=name, found=_short(shape))
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise errors.BadTensorEntry(
            "data_offsets is not [begin, end] with begin <= end", file=path, key=name, found=_short(offsets)
        )
    begin, end = offsets
    if len(shape) > AXES_LIMIT or math.prod(n for n in shape if n) * DTYPE_SIZES[dtype] >= SIZE_LIMIT:
        raise errors.ImpossibleShape("no machine can hold this shape", file=path, key=name, found=_short(shape))
    needed = math.prod(shape) * DTYPE_SIZES[dtype]
    if needed != end - begin:
        raise errors.ShapeSizeMismatch(
            f"{dtype} {_short(shape)} does not fill its data_offsets", file=path, key=name,
            expected=f"{needed} bytes", found=end - begin,
        )  # fmt: skip
    return Tensor(dtype, tuple(shape), (Span(path, start + begin, needed, state),))


def _sizes(value: object) -> bool:
    """Whether ``value`` is a list of whole numbers from 0 to 2**63 - 1; ``true`` is no number here."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < SIZE_LIMIT for n in value)


def _check_tiling(tensors: dict[str, Tensor], start: int, size: int, path: Path) -> None:
    """The tensors must fill the data section in some order, without overlap, hole or remainder."""
    spans = sorted(
        ((span.offset, span.offset + span.length, name) for name, t in tensors.items() if (span := _span(t)))
    )
    at, before = start, ""
    for begin, end, name in spans:
        where = f"bytes {begin - start} to {end - start}"
        if end > size:
            raise errors.TruncatedFile(
                "ends before this tensor's data does", file=path, key=name, expected=f"{end} bytes", found=size,
                hint="Download it again.",
            )  # fmt: skip
        if begin < at:
            raise errors.OverlappingTensors(f"claims {where}, which {before} claims too", file=path, key=name)
        if begin > at:
            raise errors.UnclaimedBytes(
                "no tensor claims the bytes before this one", file=path, key=name,
                expected=f"data at {at - start}", found=begin - start,
            )  # fmt: skip
        at, before = end, name
    if at != size:
        raise errors.UnclaimedBytes("bytes behind the last tensor", file=path, expected=f"{at} bytes", found=size)


def _span(tensor: Tensor) -> Span:
    return cast(Span, tensor.pieces[0])


def _one_of(names: Iterable[str]) -> str:
    return "one of " + ", ".join(names)


def _short(value: object) -> str:
    """A hostile value's text, short: its first items and no integer of thousands of digits."""
    if isinstance(value, list):
        inner = ", ".join(_short(item) for item in value[:8])
        return f"[{inner}{', …' if len(value) > 8 else ''}]"
    if isinstance(value, int) and abs(value) >= SIZE_LIMIT:
        return "an integer beyond 2**63"
    return repr(value)[:60] if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__


def check_count(file: SafetensorsFile) -> None:
    """Refuse a file of more tensors than an adapter has: each is looked up in many base models.

    Raises:
        HeaderTooLarge: says how many there are.
    """
    if len(file.tensors) > TENSORS_LIMIT:
        raise errors.HeaderTooLarge(
            "has more tensors than any adapter", file=file.path, expected=f"at most {TENSORS_LIMIT}",
            found=len(file.tensors),
        )  # fmt: skip
