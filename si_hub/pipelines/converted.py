"""Conversions that cost something to compute, kept beside the Hub's cache so that they are computed once.

What is kept does not depend on the base's weights: LoHa and expanded LoKr forms are, DoRA and OFT are not. Of a
LoRA nothing is computed, and nothing kept. A conversion is a StyleInject file in a folder of its own, which is named by
what it is a function of: the source file, which base model it is for, and the code that converts.

The environment's ``SI_HUB_CONVERTED`` names another folder for all of them or, where it is ``off``, keeps none.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path

from si_hub import __version__, architectures, converters
from si_hub import format as file_format
from si_hub.adapter import Adapter
from si_hub.architectures import Architecture, Model
from si_hub.converters import Conversion
from si_hub.converters.source import CONFIG_NAME, component_folders, weights_file
from si_hub.errors import SiHubError
from si_hub.storage.leftovers import TEMPORARY_PREFIX
from si_hub.storage.tensors import Computed, Tensor

#: Bytes of all that is kept; what was not used for longest is thrown away first.
MOST_BYTES = 8 << 30
_SWITCH, _OFF = "SI_HUB_CONVERTED", "off"
_NAME = re.compile(r"[0-9a-f]{40}")


def name_conversion(path: Path, base: Architecture, *, given: bool) -> str:
    """What the conversion of a file or folder for a base model is a function of, as 40 hexadecimal digits.

    The source is not read for that: its metadata, which the base model's name is a function of too, are in its files.

    Args:
        given: the user named the base, so that metadata do not count.
    """
    known = {
        "code": _digest_code(),
        "base": [
            given,
            base.name,
            base.prediction_type,
            {name: _digest(model) for name, model in base.components.items()},
        ],
        "files": [_describe_file(file) for file in _list_files(path)],
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:40]


def find_converted(name: str) -> Path | None:
    """Where the conversion of that name is kept, or would be; None where none is kept at all."""
    home = _home()
    return None if home is None else home / name


def _home() -> Path | None:
    """The folder of all conversions; ``None`` where none are kept."""
    from huggingface_hub import constants

    told = os.environ.get(_SWITCH)
    if told == _OFF:
        return None
    return Path(told).expanduser() if told else Path(constants.HF_HOME) / "si-hub" / "converted"


def find_kept() -> tuple[Path, dict[Path, int]] | None:
    """The folder of all conversions, and each of them with its bytes; ``None`` where none are kept."""
    if (home := _home()) is None:
        return None
    return home, {path: size for _, size, path in _list_kept(home)}


def empty_converted() -> None:
    """Throw away all conversions; what somebody else put there stays."""
    for path in (find_kept() or (None, {}))[1]:
        _discard(path)


def _list_kept(home: Path) -> list[tuple[float, int, Path]]:
    """Conversions with the time of their last use and their bytes."""
    found: list[tuple[float, int, Path]] = []
    for path in home.iterdir() if home.is_dir() else ():
        # Another process may throw one away meanwhile.
        with suppress(OSError):
            if _NAME.fullmatch(path.name) and path.is_dir():
                size = sum(file.stat().st_size for file in path.iterdir())
                found.append((path.stat().st_mtime, size, path))
    return found


@lru_cache(maxsize=64)
def _digest(model: Model) -> str:
    """Of a model's modules and their shapes."""
    return hashlib.sha256(
        repr((model.class_name, sorted((path, repr(module)) for path, module in model.modules.items()))).encode()
    ).hexdigest()


def _list_files(path: Path) -> list[Path]:
    """The files that a foreign adapter consists of: weights, and the configurations beside them."""
    weights = [weights_file(part) for part in component_folders(path) or [path]]
    configs = (file.with_name(CONFIG_NAME) for file in weights)
    return [*weights, *(file for file in configs if file.is_file())]


def _describe_file(path: Path) -> list[str | int]:
    """What a file is without reading it: written anew, it is another one."""
    fact = path.stat()
    return [path.parent.name, path.name, fact.st_dev, fact.st_ino, fact.st_size, fact.st_mtime_ns, fact.st_ctime_ns]


@cache
def _digest_code() -> str:
    """Of the version, and of the code that converts: between two releases it changes too."""
    digest = hashlib.sha256(__version__.encode())
    for room in (converters, architectures, file_format):
        for file in sorted(Path(str(room.__file__)).parent.rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def read_converted(folder: Path) -> Adapter | None:
    """The adapter that is kept in a folder, where there is one; what cannot be read is removed."""
    file = folder / file_format.DEFAULT_NAME
    if not file.is_file():
        return None
    try:
        adapter = file_format.read(file)
        with suppress(OSError):
            os.utime(folder)  # of its last use
    except SiHubError:
        _discard(folder)
        return None
    return adapter


def is_lasting(found: Conversion) -> bool:
    """Whether a conversion is whole, and nothing of it comes from the base's weights."""
    detected = found.origins.found
    depends = bool(detected.needing_base(found.origins.match)) or any(
        module.whole for module in detected.grouped.modules.values()
    )
    return not (depends or found.report.lost or found.report.notes)


def is_worth_keeping(found: Conversion) -> bool:
    """Whether a lasting conversion is computed, in part at least."""
    return is_lasting(found) and any(is_computed(tensor) for tensor in list_tensors(found.adapter))


def keep_converted(adapter: Adapter, folder: Path) -> Adapter | None:
    """Write a converted adapter into its folder, and read it from there; None where the disk does not take it."""
    if (size := sum(tensor.nbytes for tensor in list_tensors(adapter))) > MOST_BYTES:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _make_room(folder, MOST_BYTES - size)
        # Another process may have written the same one meanwhile: it stays, somebody may be reading it.
        with suppress(FileExistsError):
            if not (file := folder / file_format.DEFAULT_NAME).exists():
                file_format.write(adapter, file)
    except OSError:
        _discard(folder)
        return None
    return read_converted(folder)


def _make_room(folder: Path, room: int) -> None:
    """Throw away the conversions beside one that were not used for longest, until the others have so many bytes."""
    others = [one for one in _list_kept(folder.parent) if one[2] != folder]
    for _, size, path in sorted(others, reverse=True):
        room -= size
        if room < 0:
            _discard(path)


def _discard(folder: Path) -> None:
    """Remove a conversion, and what a process that was killed left of one; nothing else that somebody put there."""
    with suppress(OSError):
        for file in folder.iterdir():
            if file.name == file_format.DEFAULT_NAME or file.name.startswith(TEMPORARY_PREFIX):
                file.unlink()
        folder.rmdir()


def is_computed(tensor: Tensor) -> bool:
    """Whether a tensor's numbers are computed whenever they are read."""
    return any(isinstance(piece, Computed) for piece in tensor.pieces)


def list_tensors(adapter: Adapter) -> list[Tensor]:
    """Every tensor of an adapter's layers."""
    return [
        tensor
        for component in adapter.components.values()
        for layer in component.layers.values()
        for tensor in layer.tensors.values()
    ]
