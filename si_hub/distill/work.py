"""Where unfinished work is kept, layer by layer, so that a killed run goes on where it was.

Every entry is one small safetensors file that appears whole: written under another name, then renamed. An entry that a
crash of the machine damaged is noticed by its digest and made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from si_hub.errors import FileAccessError, FormatError, SiHubError
from si_hub.storage.header import read_safetensors
from si_hub.storage.tensors import DTYPE_SIZES, Tensor
from si_hub.storage.write import header_bytes

_PLAN = "plan.json"
_FACTS, _DIGEST, _NAME = "facts", "sha256", "name"


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept under a name: tensors as spans of its file, and JSON facts."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


@dataclass(slots=True)
class Work:
    """A folder of finished parts.

    Attributes:
        folder: where; made when the first entry is kept.
        kept: entries found from an earlier run, when it was opened.
    """

    folder: Path
    kept: int = field(default=0, init=False)

    def open(self, plan: Mapping[str, Any]) -> None:
        """Use the folder for ``plan``; what another plan left there is thrown away.

        Raises:
            FileAccessError: a folder that is not ours, or no permission.
        """
        text = json.dumps(plan, sort_keys=True, indent=1)
        marker = self.folder / _PLAN
        if self.folder.exists() and any(self.folder.iterdir()) and not marker.is_file():
            raise FileAccessError(
                "is a folder with other things in it", file=self.folder, hint="Name an empty one with --work."
            )
        if marker.is_file() and marker.read_text(encoding="utf-8") != text:
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        _appear(marker, text.encode())
        self.kept = sum(1 for _ in self.folder.glob("*.safetensors"))

    def save(self, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Entry:
        """Keep a finished part."""
        ordered = dict(sorted(tensors.items(), key=lambda item: (-DTYPE_SIZES[item[1].dtype], item[0])))
        data = b"".join(tensor.tobytes() for tensor in ordered.values())
        metadata = {_NAME: name, _FACTS: json.dumps(facts, sort_keys=True), _DIGEST: hashlib.sha256(data).hexdigest()}
        _appear(self._file(name), header_bytes(ordered, metadata) + data)
        return Entry(read_safetensors(self._file(name)).tensors, dict(facts))

    def load(self, name: str) -> Entry | None:
        """What is kept under ``name``; ``None`` where it is not there or damaged."""
        path = self._file(name)
        if not path.is_file():
            return None
        try:
            file = read_safetensors(path)
            digest = hashlib.sha256()
            for tensor in file.tensors.values():
                for chunk in tensor.chunks():
                    digest.update(chunk)
        except (FormatError, SiHubError):
            return None
        if file.metadata.get(_NAME) != name or file.metadata.get(_DIGEST) != digest.hexdigest():
            return None
        return Entry(file.tensors, json.loads(file.metadata[_FACTS]))

    def drop(self, names: Iterable[str]) -> None:
        """Throw away what is kept under ``names``."""
        for name in names:
            self._file(name).unlink(missing_ok=True)

    def tidy(self) -> None:
        """Throw the folder away if nothing is kept in it."""
        if self.folder.is_dir() and {path.name for path in self.folder.iterdir()} <= {_PLAN}:
            self.clear()

    def clear(self) -> None:
        """Throw everything away: the result is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, name: str) -> Path:
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.safetensors"


def stamp(path: Path) -> list[Any]:
    """A model's files as they are now: names, sizes and times."""
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    facts = [(file, file.stat()) for file in files]
    return [str(path.resolve()), [[file.name, fact.st_size, fact.st_mtime_ns] for file, fact in facts]]


def _appear(path: Path, data: bytes) -> None:
    """Put a file in place whole. Without a sync: a killed process loses nothing, and digests find what a crash does."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise FileAccessError(f"cannot be written: {error.strerror or error}", file=path) from error
    finally:
        temporary.unlink(missing_ok=True)
