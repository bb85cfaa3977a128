"""Bytes of many tensors read into rooms that are used again and again: new memory takes longer than reading does."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from si_hub.storage.files import open_regular
from si_hub.storage.tensors import CHUNK, Computed, FileState, Held, Piece, Scaled, Tensor, file_state, fill_room


class Sources(ExitStack):
    """Open descriptors of the files that the pieces come from."""

    def __init__(self) -> None:
        super().__init__()
        self._open: dict[Path, int] = {}
        self._made: tuple[Callable[[], bytes] | None, bytes] = None, b""
        self._states: dict[Path, FileState] = {}

    def read(self, piece: Piece, start: int, room: memoryview) -> None:
        """Fill ``room`` with the bytes of ``piece`` from ``start`` on.

        Raises:
            MissingFile, FileAccessError, TruncatedFile: where they cannot be had.
        """
        if isinstance(piece, Held):
            room[:] = memoryview(piece.data)[start : start + len(room)]
            return
        if isinstance(piece, Scaled):
            piece = piece.cut(0, piece.length)
        if isinstance(piece, Computed):
            start += piece.start
            room[:] = memoryview(self._make(piece))[start : start + len(room)]
            return
        if piece.path not in self._open:
            self._open[piece.path] = open_regular(piece.path)
            self.callback(os.close, self._open[piece.path])
            self._states[piece.path] = file_state(self._open[piece.path])
        piece.check(self._states[piece.path])
        fill_room(self._open[piece.path], room, piece.offset + start, piece.path)

    def _make(self, piece: Computed) -> bytes:
        """The computed bytes; those of the last computation are kept for the rest of it."""
        # Equal rather than the same: a method is bound anew whenever it is asked for.
        if self._made[0] != piece.make:
            self._made = None, b""
            self._made = piece.make, piece.make()
        return self._made[1]


class Comparison(Sources):
    """Compares tensors byte by byte."""

    def __init__(self) -> None:
        super().__init__()
        self._rooms = bytearray(CHUNK), bytearray(CHUNK)

    def same(self, one: Tensor, other: Tensor) -> bool:
        """Whether two tensors hold the same bytes; nothing is read behind the first difference.

        Raises:
            MissingFile, FileAccessError, TruncatedFile: what cannot be read.
        """
        if one.nbytes != other.nbytes:
            return False
        for start in range(0, one.nbytes, CHUNK):
            length = min(CHUNK, one.nbytes - start)
            for tensor, room in zip((one, other), self._rooms, strict=True):
                self._fill(tensor, start, memoryview(room)[:length])
            # Comparing memory views goes number by number, comparing bytearrays does not.
            a, b = self._rooms if length == CHUNK else (room[:length] for room in self._rooms)
            if a != b:
                return False
        return True

    def _fill(self, tensor: Tensor, start: int, room: memoryview) -> None:
        """Fill ``room`` with the bytes of a tensor from ``start`` on, across its pieces."""
        for piece in tensor.pieces:
            if room and start < piece.length:
                count = min(len(room), piece.length - start)
                self.read(piece, start, room[:count])
                room, start = room[count:], 0
            else:
                start -= min(start, piece.length)
