"""Many adapters at once: folders, patterns and lists of files, each converted or looked at for itself."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from si_hub import format as file_format
from si_hub.basemodel import find_base
from si_hub.compression import check_options
from si_hub.conversion import Converted, convert, default_output
from si_hub.converters import FAMILIES
from si_hub.converters.families.contract import never
from si_hub.converters.source import FOLDER_NAMES, STYLEINJECT_SUFFIX, component_folders, open_source
from si_hub.errors import FileAccessError, MissingFile, NotAnAdapter, SiHubError, UsageError
from si_hub.foreign import join_safely, make_safe
from si_hub.hub.pull.verify import hash_file
from si_hub.inspection import Inspection, inspect
from si_hub.report.text import size_text
from si_hub.storage.header import read_safetensors
from si_hub.words import switch

Status = Literal["converted", "done", "skipped", "failed"]
_WILD = "*?["


@dataclass(frozen=True, slots=True)
class Find:
    """A source that was found.

    Attributes:
        path: a file, or a folder that is one adapter.
        root: the folder in which it was found; ``None`` for what the user named itself.
    """

    path: Path
    root: Path | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """What became of one source.

    Attributes:
        source: it.
        status: ``converted``; ``done`` where its output is there already; ``skipped`` where a folder holds something
            that is no adapter; ``failed``.
        path: the output.
        result: of the conversion.
        error: what went wrong, or why it was skipped.
        note: what is not known of what is done.
    """

    source: Path
    status: Status
    path: Path | None = None
    result: Converted | None = None
    error: SiHubError | None = None
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The item as JSON data."""
        found: dict[str, Any] = {"source": str(self.source), "status": self.status}
        if self.path is not None:
            found["path"] = str(self.path)
        if self.error is not None:
            found |= self.error.as_dict()
        if self.note:
            found["note"] = self.note
        return found | (self.result.as_dict() if self.result else {})

    def as_row(self) -> tuple[str, str, str, str]:
        """Status, name, base and what there is to say."""
        name = make_safe(self.source, 60, keep_end=True)
        if self.result is not None:
            exact = "exact" if self.result.exact else "not exact"
            said = f"{self.result.family}, {size_text(self.result.size)}, {exact}"
            return self.status, name, make_safe(self.result.base), make_safe(said, 100)
        said = self.error.problem if self.error else self.note
        return self.status, name, "", make_safe(said, 100)


def is_many(paths: Sequence[Path]) -> bool:
    """Whether these are several sources, and not one file, adapter folder or repository."""
    return len(paths) != 1 or _is_pattern(paths[0]) or (paths[0].is_dir() and not _is_adapter(paths[0]))


def find_sources(paths: Sequence[Path]) -> list[Find]:
    """Every adapter file and adapter folder that is named, in named folders, or meant by patterns; each once.

    Files of this format are none, nor are pickles in folders: those are opened only where they are named.

    Raises:
        MissingFile: nothing there, or nothing in it.
    """
    found: dict[Path, Find] = {}
    for path in paths:
        places = [Path(one) for one in sorted(glob.glob(str(path), recursive=True))] if _is_pattern(path) else [path]
        finds = [find for place in places for find in _find_in(place)]
        if not finds and (not path.exists() or path.is_dir()):
            raise MissingFile("no adapter there", file=path, expected=".safetensors files or adapter folders")
        for find in finds:
            found.setdefault(find.path.resolve(), find)
    return list(found.values())


def _is_pattern(path: Path) -> bool:
    return any(letter in str(path) for letter in _WILD) and not path.exists()


def _is_adapter(folder: Path) -> bool:
    """Whether a folder is one adapter: it has weights of a known name, or a PEFT folder for each component."""
    if any((folder / name).is_file() for name in FOLDER_NAMES) or component_folders(folder):
        return True
    return len([file for file in folder.glob("*.safetensors") if not _is_ours(file)]) == 1 and not any(
        place.is_dir() for place in folder.iterdir()
    )


def _is_ours(file: Path) -> bool:
    return file.name.endswith(STYLEINJECT_SUFFIX)


def _find_in(place: Path) -> Iterator[Find]:
    if not place.is_dir():
        if not (place.exists() and _is_ours(place)):
            yield Find(place)
        return
    for folder, names, files in os.walk(place):
        here = Path(folder)
        names.sort()
        if any((here / name).is_file() for name in FOLDER_NAMES) or component_folders(here):
            names.clear()
            yield Find(here, place)
            continue
        for name in sorted(files):
            if name.endswith(".safetensors") and not _is_ours(here / name):
                yield Find(here / name, place)


def convert_all(
    paths: Sequence[str | Path],
    output: str | Path | None = None,
    *,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Iterator[Item]:
    """Convert every adapter of files, folders and patterns; one that fails does not keep the others from it.

    What is converted already, from the same bytes, is done. Subfolders are kept.

    Args:
        paths: files, folders that are looked through, and patterns.
        output: a folder, made where there is none; by default each output lies beside its source.
        force: convert what is done again, and overwrite what is there.
        progress: called with (bytes done, bytes in all).
        options: of `si_hub.convert`.

    Raises:
        MissingFile: nothing there.
        FileAccessError: the output is a file.
        UsageError: options that say nothing, or no such base model.
    """
    size = options.get("size")
    check_options(options.get("rank"), options.get("tolerance"), None if size is None else 1)
    find_base(options.get("base"))
    finds = find_sources([Path(path) for path in paths])
    folder = None if output is None else Path(output)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise FileAccessError("is a file, and several adapters want a folder", file=folder)
    sizes = [_size_of(find.path) for find in finds]
    taken: dict[Path, Path] = {}
    total, before = sum(sizes), 0
    for find, size in zip(finds, sizes, strict=True):

        def tell(done: int, whole: int, before: int = before, size: int = size) -> None:
            if progress:
                progress(before + (size * done // whole if whole else size), total)

        yield _convert_one(find, folder, taken, force=force, progress=tell, **options)
        before += size
        tell(0, 1, before)


def _convert_one(find: Find, folder: Path | None, taken: dict[Path, Path], *, force: bool, **options: Any) -> Item:
    path = default_output(find.path)
    if folder is not None:
        inner = find.path.parent.relative_to(find.root) if find.root else Path()
        path = folder / inner / path.name
    try:
        if (first := taken.setdefault(path, find.path)) != find.path:
            raise FileAccessError(
                "has the same output as another source", file=find.path, expected=f"another name than {first}",
                hint="Convert one of them by itself.",
            )  # fmt: skip
        if path.exists() and not force and not _asks_for_more(options) and _is_done(find.path, path):
            return Item(find.path, "done", path, note=_doubt(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        return Item(find.path, "converted", path, convert(find.path, path, force=force, **options))
    except SiHubError as error:
        harmless = isinstance(error, NotAnAdapter) and find.root is not None
        return Item(find.path, "skipped" if harmless else "failed", None, None, error)
    except OSError as error:
        return Item(find.path, "failed", None, None, FileAccessError(error.strerror or str(error), file=find.path))


def _size_of(path: Path) -> int:
    files = path.rglob("*.safetensors") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _asks_for_more(options: Mapping[str, Any]) -> bool:
    """Whether what is asked for is more than a conversion, so that what is there may be something else."""
    return any(options.get(name) not in (None, False) for name in ("rank", "tolerance", "size", "check", "denoiser"))


def _doubt(path: Path) -> str:
    """What is not known of an output that is there: by which weights of the base, where its family needs them."""
    family = str(file_format.read_document(read_safetensors(path)).get("provenance", {}).get("family", ""))
    needing = {one.name for one in FAMILIES if one.is_converted and one.needs_base is not never}
    if not needing & set(family.split("+")):
        return ""
    return f"made earlier; by which weights of the base is not known, {switch('force')} makes it anew"


def _is_done(source: Path, path: Path) -> bool:
    """Whether a file of ours was made from these bytes."""
    try:
        made_of = file_format.read_document(read_safetensors(path)).get("provenance", {})
        opened = open_source(source)
    except SiHubError:
        return False
    entries = made_of.get("sources") or [made_of.get("source", {})]
    files = [part.path for part in opened.parts or (opened,)]
    return len(entries) == len(files) and all(
        entry.get("size") == file.stat().st_size and entry.get("sha256") == hash_file(file, "sha256")
        for entry, file in zip(entries, files, strict=True)
    )


def exit_code_of(codes: Iterable[int]) -> int:
    """Of several errors' exit codes: 0 where there is none, theirs where they have one in common, else 1."""
    found = set(codes)
    return 0 if not found else found.pop() if len(found) == 1 else 1


def table_of(items: Sequence[Item]) -> str:
    """What became of all of them, a line each, and their count."""
    lines = _align([item.as_row() for item in items])
    counts = Counter(item.status for item in items)
    kinds: tuple[Status, ...] = ("converted", "done", "skipped", "failed")
    said = ", ".join(f"{counts[kind]} {kind}" for kind in kinds if counts[kind])
    return join_safely([*lines, f"{len(items)} sources: {said}"])


def _align(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def inspect_all(paths: Sequence[str | Path], **options: Any) -> Iterator[Inspection]:
    """Look at every file of files, folders and patterns; one that is broken says so, as ``unreadable``."""
    for path in map(Path, paths):
        places = [Path(one) for one in sorted(glob.glob(str(path), recursive=True))] if _is_pattern(path) else [path]
        if not places:
            raise MissingFile("nothing of that name", file=path)
        for place in places:
            try:
                found = inspect(place, **options)
            except SiHubError as error:
                if isinstance(error, UsageError) or not place.exists():
                    raise
                found = Inspection(place, place.stat().st_size, "unreadable", 0, 0, {}, problem=error.as_dict())
            yield from found if isinstance(found, list) else [found]


def is_many_files(paths: Sequence[Path]) -> bool:
    """Whether these are several files to look at: all that a folder holds is looked at, an adapter's folder too."""
    return len(paths) != 1 or _is_pattern(paths[0]) or paths[0].is_dir()


def inspect_table(found: Sequence[Inspection]) -> str:
    """All of them, a line each, and how many of each kind."""
    rows = [
        (one.kind, make_safe(one.path, 60, keep_end=True), make_safe(one.base or " or ".join(one.candidates), 60),
         make_safe(one.family or one.problem.get("problem", ""), 80))
        for one in found
    ]  # fmt: skip
    counts = Counter(one.kind for one in found)
    return join_safely([*_align(rows), f"{len(found)} files: {', '.join(f'{n} {kind}' for kind, n in counts.items())}"])
