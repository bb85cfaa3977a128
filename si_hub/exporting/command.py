"""`export`: an adapter, ours or anybody's, as a file of another program's format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from si_hub.adapter import Adapter
from si_hub.architectures import Architecture
from si_hub.architectures.bases import BY_NAME
from si_hub.architectures.known import rank_alike
from si_hub.compression import Compression, check_options, compress_layers
from si_hub.converters.checking import Check, Own
from si_hub.converters.dense import Weights
from si_hub.editing.opening import open_adapter
from si_hub.editing.steadying import steady
from si_hub.errors import ConversionRefused, UsageError
from si_hub.exporting.assembling import ExportJob, spell_files
from si_hub.exporting.files import ExportFile, check_outputs, write_files
from si_hub.exporting.formats import FILE_FORMATS
from si_hub.exporting.pairs import expand_product
from si_hub.exporting.proving import prove
from si_hub.exporting.returning import ORIGINAL, return_files
from si_hub.foreign import join_safely
from si_hub.report.text import size_text, tally
from si_hub.schedule import check_constant
from si_hub.storage.access import tell_access_errors
from si_hub.words import label, rename_keywords

FORMATS = (ORIGINAL, *FILE_FORMATS)


@dataclass(frozen=True, slots=True)
class Exported:
    """A written export.

    Attributes:
        source, paths: the file read and the files written; none of a dry run.
        to: the format.
        base: name of the base model.
        modules: modules of the written file by component; fused ones count as one.
        ranks: modules by rank.
        size: bytes written, or to be written.
        check: of the layers that were read back, where that was asked for.
        compression: the measured errors of layers that pairs were made of.
        notes: what a user of it has to know.
    """

    source: Path
    paths: tuple[Path, ...]
    to: str
    base: str
    modules: dict[str, int]
    ranks: dict[int, int]
    size: int
    dry_run: bool = False
    check: Check | None = None
    compression: Compression = field(default_factory=Compression)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON data."""
        return {
            "source": str(self.source), "paths": [str(path) for path in self.paths], "to": self.to, "base": self.base,
            "modules": self.modules, "ranks": {str(rank): count for rank, count in self.ranks.items()},
            "size": self.size, "dry_run": self.dry_run, "notes": self.notes,
            **({"check": self.check.as_dict()} if self.check else {}), **self.compression.as_dict(),
        }  # fmt: skip

    def as_text(self) -> str:
        """The result as lines for people."""
        modules = ", ".join(f"{name} {count}" for name, count in self.modules.items())
        return join_safely([
            *([f"{path}{' (would be written)' if self.dry_run else ''}" for path in self.paths]),
            f"  from     {self.source}, for {self.base}",
            f"  format   {self.to}{'' if self.compression.errors else ', exact'}",
            f"  modules  {sum(self.modules.values())} ({modules})",
            f"  rank     {tally(self.ranks)}",
            f"  size     {size_text(self.size)}",
            *self.compression.as_lines(),
            *(self.check.as_lines() if self.check else ()),
            *(f"  note     {note}" for note in self.notes),
        ])  # fmt: skip


@tell_access_errors()
@rename_keywords(overwrite="force")
def export(
    source: str | Path,
    output: str | Path | None = None,
    *,
    to: str,
    base: str | Path | Architecture | None = None,
    styles: Mapping[str, float] | None = None,
    rank: int | None = None,
    tolerance: float | None = None,
    force: bool = False,
    dry_run: bool = False,
    check: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Write an adapter in another program's format, exactly.

    Args:
        source: a StyleInject file, or any adapter that `si_hub.convert` takes.
        output: the file, or for PEFT the folder, to write; by default beside the source.
        to: ``kohya`` (A1111, Forge, ComfyUI and most others read it), ``diffusers``, ``peft``, ``comfy`` (ComfyUI's own
            names), or ``original``, the names, shapes and alphas of the file that it was converted from.
        base: of a source that is no StyleInject file: see `si_hub.convert`. Of one that is, the folder or checkpoint
            whose weights its gains and rotations act on, where pairs are made of them.
        styles: weights by name, of an adapter of several styles.
        rank, tolerance: make pairs of what the format has no place for, and of what a pair is smaller than: of this
            rank at most, or of this relative error of a layer at most; the errors are measured.
        force: replace existing files.
        dry_run: only say what would be written.
        check: read what was written back, and recompute every layer of both in float64; the largest relative error is
            in the result.
        progress: called with (bytes done, bytes in all).

    Raises:
        UsageError: no such format, or no such style.
        ConversionRefused: the format cannot say what the adapter does.
        FileAccessError: the output exists, or is the source.
        SiHubError: everything of `si_hub.converters.convert_source`.
    """
    if to not in FORMATS:
        raise UsageError("is no format to export to", key=label("to"), expected=", ".join(FORMATS), found=to)
    source = Path(source)
    smaller = check_options(rank, tolerance, None)
    adapter, architecture, weights = _open(source, base)
    check_constant(adapter.about, source)
    if to == ORIGINAL and (styles or smaller):
        raise UsageError("the original is what it was", key=label("styles" if styles else "rank"), hint="Leave it out.")
    cost = Compression()
    with _telling_of(source):
        if to == ORIGINAL:
            files, notes = return_files(adapter, architecture, source, output)
        else:
            target = FILE_FORMATS[to]
            adapter = steady(adapter, styles)
            if "lokr_w1" not in target.suffixes:
                for component in adapter.components.values():
                    component.layers = {path: expand_product(layer) for path, layer in component.layers.items()}
            if smaller:
                own = Own(adapter=adapter, architecture=architecture, weights=weights, file=source)
                cost = compress_layers(
                    adapter, own, source, rank=rank, tolerance=tolerance, must=target.lacks, progress=progress
                )
            files, notes = spell_files(ExportJob(adapter, architecture, weights, target, source), output)
    check_outputs(source, files, force)
    size = sum(tensor.nbytes for file in files for tensor in file.tensors.values())
    if not dry_run:
        size = write_files(files, force, progress)
    proof = prove(adapter, architecture, weights, files, source) if check and not dry_run else None
    modules = _count_modules(files)
    ranks = _count_ranks(files)
    return Exported(
        source, tuple(file.path for file in files), to, adapter.base_model.architecture, modules, ranks, size, dry_run,
        proof, cost, notes,
    )  # fmt: skip


@contextmanager
def _telling_of(source: Path) -> Iterator[None]:
    """What is refused within says of which file."""
    try:
        yield
    except ConversionRefused as error:
        if error.file is not None:
            raise
        raise ConversionRefused(
            error.problem, file=source, key=error.key, expected=error.expected, found=error.found, hint=error.hint
        ) from error


def _open(source: Path, base: str | Path | Architecture | None) -> tuple[Adapter, Architecture, Weights | None]:
    """As `open_adapter`, the base model under the name by which formats know it.

    One of its own, such as for inpainting, goes by that of the shipped one that it is like.
    """
    adapter, architecture, weights = open_adapter(source, base, whole_header=True)
    name = adapter.base_model.architecture
    if name not in BY_NAME:
        name = next(iter(rank_alike(architecture)), name)
    known = replace(adapter.base_model, architecture=name)
    return replace(adapter, base_model=known), replace(architecture, name=name), weights


def _count_modules(files: list[ExportFile]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for file in files:
        for key in file.layers:
            name = key.partition(".")[0]
            counts[name] = counts.get(name, 0) + 1
    return counts


def _count_ranks(files: list[ExportFile]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for file in files:
        for layer in file.layers.values():
            counts[layer.rank] = counts.get(layer.rank, 0) + 1
    return counts
