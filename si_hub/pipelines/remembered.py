"""The latest files of this process: an adapter that is loaded again is neither read through nor converted again.

What is remembered are descriptions: where each tensor's bytes are in a file, and what the file was when it was read.
Numbers that a conversion computes are not among them, see `si_hub.pipelines.converted`.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from si_hub.adapter import Adapter
from si_hub.pipelines.converted import is_computed, list_tensors
from si_hub.storage.header import SafetensorsFile, read_safetensors
from si_hub.storage.tensors import FileState, Span, file_state

#: How many of each kind are remembered.
MOST = 16


@dataclass(frozen=True, slots=True)
class _Remembered:
    """A conversion, the folder that it is kept in, and the files that its numbers are in, as they were."""

    adapter: Adapter
    folder: Path | None
    files: frozenset[tuple[Path, FileState | None]]


_latest: OrderedDict[tuple[str, str, str], _Remembered] = OrderedDict()
_headers: OrderedDict[tuple[str, str], tuple[tuple[int, ...], SafetensorsFile]] = OrderedDict()
_lock = threading.Lock()


def remember_conversion(source: Path, name: str, adapter: Adapter, folder: Path | None = None) -> None:
    """Remember a conversion that is whole and no function of the base's weights, unless it holds computed numbers.

    Args:
        source: the file or folder that was converted.
        name: of `converted.name_conversion`.
        folder: where it is kept, where it is read from there.
    """
    tensors = list_tensors(adapter)
    if any(is_computed(tensor) for tensor in tensors):
        return
    spans = (piece for tensor in tensors for piece in tensor.pieces if isinstance(piece, Span))
    files = frozenset((span.path, span.state) for span in spans)
    with _lock:
        key = _key(source, name)
        _latest[key] = _Remembered(adapter, folder, files)
        _latest.move_to_end(key)
        while len(_latest) > MOST:
            _latest.popitem(last=False)


def recall_conversion(source: Path, name: str, folder: Path | None) -> Adapter | None:
    """The conversion of that name, where it is remembered and still where it was.

    Args:
        folder: where it would be kept now.
    """
    key = _key(source, name)
    with _lock:
        found = _latest.get(key)
        if found is None:
            return None
        _latest.move_to_end(key)
    if found.folder not in (None, folder):
        return None
    try:
        if any(file_state(path) != state for path, state in found.files):
            return None
        if found.folder is not None:
            os.utime(found.folder)  # of its last use
    except OSError:
        return None
    return found.adapter


def _key(source: Path, name: str) -> tuple[str, str, str]:
    """With the path as it is written, by which the bytes are read, and where that leads now."""
    return name, str(source), os.path.abspath(source)


def known_header(path: Path) -> SafetensorsFile:
    """`si_hub.storage.header.read_safetensors`, of a file that is as it was the result of before."""
    key = str(path), os.path.abspath(path)
    try:
        # Looked at before it is read: of one that is written anew meanwhile, what was read counts for nothing.
        found = os.stat(path)
        fact = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    except OSError:
        return read_safetensors(path)  # which says what is wrong
    with _lock:
        known = _headers.get(key)
    if known is None or known[0] != fact:
        known = fact, read_safetensors(path)
    with _lock:
        _headers[key] = known
        _headers.move_to_end(key)
        while len(_headers) > MOST:
            _headers.popitem(last=False)
    return known[1]


def forget_files() -> None:
    """Forget all of them."""
    with _lock:
        _latest.clear()
        _headers.clear()
