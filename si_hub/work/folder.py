"""Where unfinished work is kept, layer by layer, so that a killed run goes on where it was.

Every entry is one small safetensors file that appears whole: written under another name, then renamed. An entry that a
crash of the machine damaged is noticed by its digest and made again.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from filelock import BaseFileLock

from si_hub.errors import FileAccessError, FormatError, SiHubError
from si_hub.storage.header import read_safetensors
from si_hub.storage.leftovers import TEMPORARY_PREFIX, TEMPORARY_SUFFIX
from si_hub.storage.locks import holding, let_go, take_lock
from si_hub.storage.tensors import DTYPE_SIZES, Tensor
from si_hub.storage.write import header_bytes
from si_hub.words import option, setting

_PLAN = "plan.json"
#: Locks in a folder. Who holds it works in it alone; who keeps it has one of the keepers; the gate is for a moment.
_LOCK = ".lock"
_HOLDER, _GATE, _KEEPER = (f"{TEMPORARY_PREFIX}{name}" for name in ("holder", "gate", "keeper-"))
_FACTS, _DIGEST, _NAME = "facts", "sha256", "name"


@dataclass(frozen=True, slots=True)
class WorkEntry:
    """What is kept under a name: tensors as spans of its file, and JSON facts."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


@dataclass
class Work:
    """A folder of finished parts.

    Attributes:
        folder: where; made when the first entry is kept.
        keyword: the option that names another.
        kept: entries found from an earlier run, when it was opened.
    """

    folder: Path
    keyword: str = "work"
    kept: int = field(default=0, init=False)
    _alone: bool = field(default=False, init=False)
    _kept_by: BaseFileLock | None = field(default=None, init=False)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """The folder is this process's alone until the block ends, or the process does, in whatever way.

        Raises:
            FileAccessError: another run is at work in it.
        """
        lock = self._take_holder()
        try:
            yield
        finally:
            self._alone = False
            if lock is not None:
                let_go(lock)
            with suppress(OSError):
                self.folder.rmdir()  # Only where nothing is in it.

    def _take_holder(self) -> BaseFileLock | None:
        while True:
            self._make()
            try:
                lock = take_lock(self.folder / f"{_HOLDER}{_LOCK}")
            except FileNotFoundError:
                continue  # Another run has just thrown the folder away.
            except OSError:
                return None  # Some network file systems have no locks: nobody is kept away there, nothing is swept.
            if lock is None:
                raise FileAccessError(
                    "another run is at work in it",
                    file=self.folder,
                    hint=f"Wait for its end, or name another with {self._option()}.",
                )
            self._alone = True
            return lock

    def keep(self) -> None:
        """Nobody throws the folder away, or drops parts of it, as long as this object and its process live.

        Several may keep a folder at once: they make the same parts of it.
        """
        while self._kept_by is None:
            self._make()
            # Between any two of these steps, another process may throw the folder away.
            try:
                with holding(self.folder / f"{_GATE}{_LOCK}"):
                    self._kept_by = take_lock(self.folder / f"{_KEEPER}{secrets.token_hex(8)}{_LOCK}")
            except FileNotFoundError:
                continue
            except OSError:
                return  # A file system without locks: nothing is thrown away there either.
            if self._kept_by is not None:
                weakref.finalize(self, let_go, self._kept_by)

    def open(self, plan: Mapping[str, Any]) -> None:
        """Use the folder for ``plan``; what another plan left there is thrown away.

        Where the folder is `hold`, so is what killed runs left half-written.

        Raises:
            FileAccessError: a folder that is not ours, or no permission.
        """
        text = json.dumps(plan, sort_keys=True, indent=1)
        marker = self.folder / _PLAN
        others = set(self.folder.iterdir()) - self._temporaries() - self._locks() if self.folder.exists() else set()
        if others and not marker.is_file():
            raise FileAccessError(
                "is a folder with other things in it",
                file=self.folder,
                hint=f"Name an empty one with {self._option()}.",
            )
        if marker.is_file() and marker.read_text(encoding="utf-8") != text:
            self._empty()
        self._make()
        if self._alone:
            for left in self._temporaries():
                left.unlink(missing_ok=True)
        _appear(marker, [text.encode()])
        self.kept = sum(1 for _ in self.folder.glob("*.safetensors"))

    def save(self, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> WorkEntry:
        """Keep a finished part."""
        ordered = dict(sorted(tensors.items(), key=lambda item: (-DTYPE_SIZES[item[1].dtype], item[0])))
        digest = hashlib.sha256()
        for chunk in _chunks(ordered):
            digest.update(chunk)
        metadata = {_NAME: name, _FACTS: json.dumps(facts, sort_keys=True), _DIGEST: digest.hexdigest()}
        _appear(self._file(name), chain([header_bytes(ordered, metadata)], _chunks(ordered)))
        return WorkEntry(read_safetensors(self._file(name), watched=False).tensors, dict(facts))

    def load(self, name: str) -> WorkEntry | None:
        """What is kept under ``name``; ``None`` where it is not there or damaged."""
        path = self._file(name)
        if not path.is_file():
            return None
        try:
            # Another run may put the same part in its place.
            file = read_safetensors(path, watched=False)
            digest = hashlib.sha256()
            for chunk in _chunks(file.tensors):
                digest.update(chunk)
        except (FormatError, SiHubError):
            return None
        if file.metadata.get(_NAME) != name or file.metadata.get(_DIGEST) != digest.hexdigest():
            return None
        return WorkEntry(file.tensors, json.loads(file.metadata[_FACTS]))

    def drop(self, names: Iterable[str]) -> None:
        """Throw away what is kept under ``names``, unless another run keeps the folder too."""
        if self._kept_by is None:
            self._remove(names)
            return
        with suppress(OSError), holding(self.folder / f"{_GATE}{_LOCK}"):
            if not _is_kept(self.folder, but=self._kept_by):
                self._remove(names)

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            self._file(name).unlink(missing_ok=True)

    def tidy(self) -> None:
        """Throw the folder away if nothing is kept in it."""
        if self.folder.is_dir() and {path.name for path in {*self.folder.iterdir()} - self._locks()} <= {_PLAN}:
            self.clear()

    def clear(self) -> None:
        """Throw everything away: the result is written."""
        with suppress(OSError):
            self._empty()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _make(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileAccessError(
                f"cannot be made: {error.strerror}", file=self.folder, hint=f"Name another with {self._option()}."
            ) from error

    def _option(self) -> str:
        """What to name another folder with; the work's is an option of the command, others' are settings."""
        return option(self.keyword) if self.keyword == "work" else setting(self.keyword, "FOLDER")

    def _empty(self) -> None:
        """Throw away everything but the marker, which says until the end that the folder is ours, and locks."""
        for path in set(self.folder.iterdir()) - self._locks():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != _PLAN:
                path.unlink(missing_ok=True)

    def _temporaries(self) -> set[Path]:
        """What is being written, or what a killed run was writing, here and in folders of the same run."""
        return set(self.folder.rglob(f"{TEMPORARY_PREFIX}*{TEMPORARY_SUFFIX}"))

    def _locks(self) -> set[Path]:
        return set(self.folder.glob(f"{TEMPORARY_PREFIX}*{_LOCK}"))

    def _file(self, name: str) -> Path:
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.safetensors"


def discard(folder: Path) -> None:
    """Throw a folder of finished parts away, unless a run keeps it, or another has thrown it away."""
    if not folder.is_dir():
        return
    # Where no lock is to be had, or another throws the folder away, nothing is thrown away.
    with suppress(OSError):
        with holding(folder / f"{_GATE}{_LOCK}"):
            if _is_kept(folder):
                return
            shutil.rmtree(folder, ignore_errors=True)
        # Windows removes no file that is open, such as the gate, and so not the folder either.
        folder.rmdir()


def _is_kept(folder: Path, but: BaseFileLock | None = None) -> bool:
    """Whether another keeper than ``but`` lives; what dead ones left is removed. The gate must be ours."""
    for file in folder.glob(f"{_KEEPER}*{_LOCK}"):
        if but is not None and file == Path(but.lock_file):
            continue
        lock = take_lock(file)
        if lock is None:
            return True
        let_go(lock)
    return False


def _chunks(tensors: Mapping[str, Tensor]) -> Iterator[bytes]:
    """The bytes of all tensors, a part at a time."""
    return chain.from_iterable(tensor.chunks() for tensor in tensors.values())


def _appear(path: Path, data: Iterable[bytes]) -> None:
    """Put a file in place whole. Without a sync: a killed process loses nothing, and digests find what a crash does."""
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("wb") as stream:
            stream.writelines(data)
        temporary.replace(path)
    except OSError as error:
        raise FileAccessError(f"cannot be written: {error.strerror or error}", file=path) from error
    finally:
        temporary.unlink(missing_ok=True)
