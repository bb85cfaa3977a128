"""Safetensors files of any size that take no room on the disk: a header, and zeros that nobody wrote."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path

Shape = tuple[int, ...]
Entry = tuple[str, Shape]
#: Bytes of one number.
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "U8": 1, "F8_E4M3": 1}


def write_zeros(path: Path, entries: Mapping[str, Entry], metadata: Mapping[str, str] | None = None) -> Path:
    """A file of zeros with these tensors, ``{name: (dtype, shape)}``, in this order."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, (dtype, shape) in entries.items():
        start, end = end, end + SIZES[dtype] * prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + end)
    return path


def data_start(path: Path) -> int:
    """Where the data of a file begins, in bytes."""
    with path.open("rb") as file:
        return 8 + int(struct.unpack("<Q", file.read(8))[0])
