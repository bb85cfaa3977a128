"""The latest conversions of this process: an adapter that is loaded again is not converted again.

What is remembered are descriptions: where each tensor's bytes are in a file, and what the file was when it was read.
Numbers that a conversion computes are not among them, see `si_hub.pipelines.converted`.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from si_hub import format as file_format
from si_hub.adapter import Adapter
from si_hub.errors import SiHubError
from si_hub.pipelines.converted import is_computed, list_tensors
from si_hub.storage.tensors import FileState, file_state

#: How many are remembered.
MOST = 16


@dataclass(frozen=True, slots=True)
class _Remembered:
    """A conversion, the folder that it is kept in, and how its file there was."""

    adapter: Adapter
    folder: Path | None
    state: FileState | None


_latest: OrderedDict[tuple[str, str, str], _Remembered] = OrderedDict()
_lock = threading.Lock()


def remember(source: Path, name: str, adapter: Adapter, folder: Path | None = None) -> None:
    """Remember a conversion that is whole and no function of the base's weights, unless it holds computed numbers.

    Args:
        source: the file or folder that was converted.
        name: of `converted.name_conversion`.
        folder: where it is kept, where it is read from there.
    """
    if any(is_computed(tensor) for tensor in list_tensors(adapter)):
        return
    try:
        state = None if folder is None else file_state(folder / file_format.DEFAULT_NAME)
    except (OSError, SiHubError):
        return
    with _lock:
        key = _key(source, name)
        _latest[key] = _Remembered(adapter, folder, state)
        _latest.move_to_end(key)
        while len(_latest) > MOST:
            _latest.popitem(last=False)


def recall(source: Path, name: str, folder: Path | None) -> Adapter | None:
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
    try:
        if found.folder is not None:
            if found.folder != folder or file_state(found.folder / file_format.DEFAULT_NAME) != found.state:
                return None
            os.utime(found.folder)  # of its last use
    except (OSError, SiHubError):
        return None
    return found.adapter


def _key(source: Path, name: str) -> tuple[str, str, str]:
    """With the path as it is written, by which the bytes are read, and where that leads now."""
    return name, str(source), os.path.abspath(source)


def forget() -> None:
    """Forget all of them."""
    with _lock:
        _latest.clear()
