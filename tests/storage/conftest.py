"""Files built byte by byte, so that no test of the reader depends on a writer."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

MakeFile = Callable[..., Path]


@pytest.fixture(scope="session")
def make_file(tmp_path_factory: pytest.TempPathFactory) -> MakeFile:
    """``make_file(header, data, length)``: 8 bytes of length, the header as it is, the data, as a fresh file."""
    folder = tmp_path_factory.mktemp("made")
    count = iter(range(1_000_000))

    def make(header: str | bytes, data: bytes = b"", length: int | None = None) -> Path:
        raw = header.encode() if isinstance(header, str) else header
        path = folder / f"{next(count)}.safetensors"
        path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
        return path

    return make
