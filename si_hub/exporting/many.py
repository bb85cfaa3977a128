"""Many adapters at once: files, folders and patterns, each exported for itself."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from si_hub.converters.source import FOLDER_NAMES, STYLEINJECT_SUFFIX, component_folders
from si_hub.errors import FileAccessError, MissingFile, NotAnAdapter, SiHubError
from si_hub.exporting.command import FORMATS, Exported, export
from si_hub.foreign import join_safely, make_safe
from si_hub.report.text import size_text

_WILD = "*?["
#: How exported files are called; in a folder they are no sources.
_EXPORTED = tuple(f".{name}{noise}.safetensors" for name in FORMATS for noise in ("", ".high_noise", ".low_noise"))


@dataclass(frozen=True, slots=True)
class ExportedItem:
    """What became of one source: ``exported``; ``skipped``, being no adapter of a folder; or ``failed``."""

    source: Path
    status: str
    result: Exported | None = None
    error: SiHubError | None = None

    def as_dict(self) -> dict[str, Any]:
        """The item as JSON data."""
        said = self.result.as_dict() if self.result else self.error.as_dict() if self.error else {}
        return {"source": str(self.source), "status": self.status, **said}

    def as_line(self) -> str:
        """The item for people."""
        name = make_safe(self.source, 60, keep_end=True)
        if self.result is None:
            return f"{self.status}  {name}  {make_safe(self.error.problem if self.error else '', 100)}"
        paths = ", ".join(make_safe(path, 80, keep_end=True) for path in self.result.paths)
        return f"{self.status}  {name}  {paths}, {size_text(self.result.size)}"


def is_one_adapter(paths: Sequence[Path]) -> bool:
    """Whether this is one file, or one folder that is an adapter itself."""
    return len(paths) == 1 and not _is_pattern(paths[0]) and (not paths[0].is_dir() or _is_adapter(paths[0]))


def _is_pattern(path: Path) -> bool:
    return any(letter in str(path) for letter in _WILD) and not path.exists()


def _is_adapter(folder: Path) -> bool:
    """Whether a folder is an adapter: of PEFT or diffusers, or with one for each component."""
    return any((folder / name).is_file() for name in FOLDER_NAMES) or bool(component_folders(folder))


def find_adapters(paths: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Adapters of files, folders and patterns, each with the folder that it was found in; each once.

    Of a StyleInject file and another adapter of the same name in a folder it is the former.

    Raises:
        MissingFile: nothing there.
    """
    found: dict[Path, tuple[Path, Path]] = {}
    for path in paths:
        places = [Path(one) for one in sorted(glob.glob(str(path), recursive=True))] if _is_pattern(path) else [path]
        finds = [find for place in places for find in _find_in(place)]
        if not finds:
            raise MissingFile("no adapter there", file=path, expected=".safetensors files or adapter folders")
        for find in finds:
            found.setdefault(find[0].resolve(), find)
    return list(found.values())


def _find_in(place: Path) -> Iterator[tuple[Path, Path]]:
    if not place.is_dir():
        yield place, place.parent
        return
    for folder, names, files in os.walk(place):
        here = Path(folder)
        names.sort()
        if _is_adapter(here):
            names.clear()
            yield here, place
            continue
        ours = {name.removesuffix(STYLEINJECT_SUFFIX) for name in files if name.endswith(STYLEINJECT_SUFFIX)}
        for name in sorted(files):
            is_ours = name.endswith(STYLEINJECT_SUFFIX)
            if not name.endswith(".safetensors") or name.endswith(_EXPORTED):
                continue
            if is_ours or name.removesuffix(".safetensors") not in ours:
                yield here / name, place


def export_all(
    paths: Sequence[Path],
    output: str | Path | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Iterator[ExportedItem]:
    """Export every adapter of files, folders and patterns; one that fails does not keep the others from it.

    Args:
        output: a folder, made where there is none, in which subfolders are kept; by default each lies beside its
            source.
        progress: called with (sources done, sources in all).
        options: of `si_hub.export`.

    Raises:
        MissingFile: nothing there.
        FileAccessError: the output is a file.
    """
    if output is not None and Path(output).exists() and not Path(output).is_dir():
        raise FileAccessError("is a file, and several adapters want a folder", file=output)
    finds = find_adapters(paths)
    for at, (source, root) in enumerate(finds):
        folder = None if output is None else f"{Path(output) / source.parent.relative_to(root)}/"
        yield _export_one(source, source != root, folder, options)
        if progress:
            progress(at + 1, len(finds))


def _export_one(source: Path, in_folder: bool, folder: str | None, options: dict[str, Any]) -> ExportedItem:
    try:
        return ExportedItem(source, "exported", export(source, folder, **options))
    except SiHubError as error:
        skipped = isinstance(error, NotAnAdapter) and in_folder
        return ExportedItem(source, "skipped" if skipped else "failed", None, error)
    except OSError as error:
        return ExportedItem(source, "failed", None, FileAccessError(error.strerror or str(error), file=source))


def list_exports(items: Sequence[ExportedItem]) -> str:
    """What became of all of them, a line each, and their count."""
    counts = Counter(item.status for item in items)
    said = ", ".join(f"{count} {status}" for status, count in counts.items())
    return join_safely([*(item.as_line() for item in items), f"{len(items)} sources: {said}"])
