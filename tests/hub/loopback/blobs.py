"""The bytes of all repositories, each once, under their SHA-256."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import BinaryIO

from tests.hub.loopback.messages import CHUNK, Refusal

SHA256 = re.compile(r"[0-9a-f]{64}")


class Blobs:
    """Files in ``folder``: ``blobs/`` are whole and named by their digest, ``uploads/`` are what clients have sent."""

    def __init__(self, folder: Path) -> None:
        self._blobs, self._uploads = folder / "blobs", folder / "uploads"
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._uploads.mkdir(exist_ok=True)

    def path(self, sha256: str) -> Path:
        return self._blobs / _checked(sha256)

    def read(self, sha256: str) -> bytes:
        return self.path(sha256).read_bytes()

    def holds(self, sha256: str) -> bool:
        return self.path(sha256).is_file()

    def add(self, content: bytes) -> str:
        """The SHA-256 of content that is now held."""
        sha256 = hashlib.sha256(content).hexdigest()
        if not self.holds(sha256):
            write_atomic(self.path(sha256), content)
        return sha256

    def receive(self, sha256: str, stream: BinaryIO, part: int | None = None) -> str:
        """Keep an upload, or one part of it, as it came; the answer is its MD5, as a file server's ETag."""
        return _keep(self._upload(sha256, part), stream)

    def join(self, sha256: str, etags: list[str]) -> None:
        """Make one upload of its parts, 1 to ``len(etags)``.

        Raises:
            Refusal: 400, a part that was never sent, or not with this ETag.
        """
        parts = [self._upload(sha256, number + 1) for number in range(len(etags))]
        for number, (part, etag) in enumerate(zip(parts, etags, strict=True), 1):
            if not part.is_file() or _md5(part) != etag.strip('"'):
                raise Refusal(400, f"Part {number} of {sha256} was not uploaded with ETag {etag}")
        with NamedTemporaryFile(dir=self._uploads, delete=False) as whole:
            for part in parts:
                with part.open("rb") as stream:
                    shutil.copyfileobj(stream, whole, CHUNK)
        os.replace(whole.name, self._upload(sha256))
        for part in parts:
            part.unlink()

    def verify(self, sha256: str, size: int) -> bool:
        """Whether the bytes are held, or were uploaded and are what they were said to be; others are thrown away."""
        target, upload = self.path(sha256), self._upload(sha256)
        if not target.is_file() and upload.is_file():
            with upload.open("rb") as stream:
                right = _sha256(stream) == sha256
            if right:
                os.replace(upload, target)
            else:
                upload.unlink()
        return target.is_file() and target.stat().st_size == size

    def _upload(self, sha256: str, part: int | None = None) -> Path:
        return self._uploads / (_checked(sha256) + ("" if part is None else f".{part}"))


def write_atomic(path: Path, content: bytes) -> None:
    """The file appears whole or not at all."""
    with NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as stream:
        stream.write(content)
    os.replace(stream.name, path)


def _keep(target: Path, stream: BinaryIO) -> str:
    digest = hashlib.md5()
    with NamedTemporaryFile(dir=target.parent, prefix=".", delete=False) as file:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            file.write(chunk)
    os.replace(file.name, target)
    return digest.hexdigest()


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def _checked(sha256: str) -> str:
    if not SHA256.fullmatch(sha256):
        raise Refusal(422, f"Not a SHA-256: {sha256}")
    return sha256


def _sha256(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := stream.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
