"""`export`: an adapter, ours or anybody's, as a file of another program's format."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from si_hub.adapter import Adapter, Layer
from si_hub.architectures import Architecture, Model
from si_hub.architectures.layouts import Part
from si_hub.compression import Compression, check_options, compress_layers
from si_hub.converters.checking import Own
from si_hub.converters.dense import BaseModule, Weights
from si_hub.converters.source import CONFIG_NAME, STYLEINJECT_SUFFIX
from si_hub.editing.opening import open_adapter
from si_hub.editing.steadying import steady
from si_hub.errors import ConversionRefused, FileAccessError, UnsupportedFamily, UsageError
from si_hub.exporting.formats import FILE_FORMATS, FileFormat
from si_hub.exporting.headers import describe_file, diffusers_metadata, peft_config
from si_hub.exporting.joining import join_layers, slice_module
from si_hub.exporting.magnitude import is_magnitude, raise_magnitude
from si_hub.exporting.original import spell_back
from si_hub.exporting.placing import place_layers
from si_hub.exporting.spelling import folds_exactly, name_tensors, spell_layer
from si_hub.foreign import join_safely
from si_hub.report.text import size_text, tally
from si_hub.storage.access import tell_access_errors
from si_hub.storage.tensors import Tensor
from si_hub.storage.write import write_safetensors
from si_hub.words import label, option, rename_keywords, switch

ORIGINAL = "original"
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
    compression: Compression = field(default_factory=Compression)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON data."""
        return {
            "source": str(self.source), "paths": [str(path) for path in self.paths], "to": self.to, "base": self.base,
            "modules": self.modules, "ranks": {str(rank): count for rank, count in self.ranks.items()},
            "size": self.size, "dry_run": self.dry_run, "notes": self.notes,
            **self.compression.as_dict(),
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
            *(f"  note     {note}" for note in self.notes),
        ])  # fmt: skip


@dataclass(slots=True)
class _File:
    """A file in the making."""

    path: Path
    tensors: dict[str, Tensor] = field(default_factory=dict)
    layers: dict[str, Layer] = field(default_factory=dict)
    metadata: Any = None
    config: dict[str, Any] | None = None


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
    adapter, architecture, weights = open_adapter(source, base)
    cost = Compression()
    if to == ORIGINAL:
        if styles or smaller:
            raise UsageError(
                "the original is what it was", key=label("styles" if styles else "rank"), hint="Leave it out"
            )
        files = [_spell_original(adapter, architecture, source, output)]
        notes: list[str] = []
    else:
        steadied = steady(adapter, styles)
        if smaller:
            own = Own(adapter=steadied, architecture=architecture, weights=weights, file=source)
            must = FILE_FORMATS[to].lacks
            cost = compress_layers(steadied, own, source, rank=rank, tolerance=tolerance, must=must, progress=progress)
        files, notes = spell_files(steadied, architecture, weights, FILE_FORMATS[to], source, output)
    _check_outputs(source, files, force)
    size = sum(tensor.nbytes for file in files for tensor in file.tensors.values())
    if not dry_run:
        size = sum(_write(file, force, progress) for file in files)
    modules = _count_modules(files)
    ranks = _count_ranks(files)
    return Exported(
        source, tuple(file.path for file in files), to, adapter.base_model.architecture, modules, ranks, size, dry_run,
        cost, notes,
    )  # fmt: skip


def _spell_original(adapter: Adapter, architecture: Architecture, source: Path, output: str | Path | None) -> _File:
    tensors = spell_back(adapter, architecture)
    layers = {f"{name}.{path}": layer for name, one in adapter.components.items() for path, layer in one.layers.items()}
    return _File(_path_for(source, output, ORIGINAL), tensors, layers, {**adapter.metadata, "format": "pt"})


def spell_files(
    adapter: Adapter,
    architecture: Architecture,
    weights: Weights | None,
    target: FileFormat,
    source: Path,
    output: str | Path | None,
) -> tuple[list[_File], list[str]]:
    """The files of a format, and what there is to say of them."""
    notes: list[str] = []
    path = _path_for(source, output, target.name)
    several = target.alpha == "configuration" and len(adapter.components) > 1
    files: dict[str, _File] = {}
    for name, component in adapter.components.items():
        if component.embeddings:
            raise ConversionRefused(
                f"{target.title} carries no textual inversions", key=f"{name}.{next(iter(component.embeddings))}",
                hint="Split them off first",
            )  # fmt: skip
        home = path / name if several else path
        file = files.setdefault(str(home), _File(home))
        model, prefix = architecture.components[name], target.prefix(architecture.name, name)
        layouts = target.layouts(architecture.name, name, model.class_name)
        for stem, parts in place_layers(component.layers, model, layouts, target.title).items():
            slices, shape = slice_module(parts, model.modules, component.layers)
            layer, magnitude = join_layers(stem, slices, shape), None
            first = model.modules[parts[0].path]
            key = f"{name}.{parts[0].path}"
            if "magnitude" in target.suffixes and is_magnitude(layer):
                layer, magnitude = _raise(key, layer, weights, model, source)
            slots = spell_layer(key, layer, first.kind, len(shape), target)
            slots |= {} if magnitude is None else {"magnitude": magnitude}
            body = stem.replace(".", "_") if prefix.endswith("_") else stem
            file.tensors |= name_tensors(prefix + body, slots, target.suffixes)
            file.layers[f"{name}.{stem}"] = layer
    found = list(files.values())
    for file in found:
        _describe(file, adapter, target, notes)
    return found, notes


def _raise(key: str, layer: Layer, weights: Weights | None, model: Model, source: Path) -> tuple[Layer, Tensor]:
    """A DoRA's pair and magnitude; UnsupportedFamily without the base's weights."""
    name, _, path = key.partition(".")
    if weights is None:
        raise UnsupportedFamily(
            "is DoRA, whose magnitudes are a function of the base model's weights", file=source, key=key,
            hint=f"Name the base model's folder or checkpoint: {option('base', 'FOLDER')}",
        )  # fmt: skip
    own = BaseModule(weights, name, (Part(path),), model.modules, source, path)
    return raise_magnitude(key, layer, own, model.modules[path].bias)


def _describe(file: _File, adapter: Adapter, target: FileFormat, notes: list[str]) -> None:
    """Metadata and configuration of one file."""
    by_component: dict[str, dict[str, Layer]] = {}
    for key, layer in file.layers.items():
        name, _, path = key.partition(".")
        by_component.setdefault(name, {})[path] = layer
    if target.alpha == "configuration":
        (only,) = by_component.values()
        file.metadata = {"format": "pt"}
        file.config = {
            "peft_type": "LORA", "task_type": None, "inference_mode": True,
            "base_model_name_or_path": adapter.base_model.repo_id, **peft_config(only),
        }  # fmt: skip
        return
    describe = describe_file(adapter, list(file.layers.values()))
    extra: dict[str, str] = {}
    if target.alpha == "folded" and not all(map(_is_folded, file.layers.values())):
        # Rounded scales would change the numbers: what diffusers itself writes says them instead.
        _unfold(file, target)
        extra = diffusers_metadata({name: peft_config(layers) for name, layers in by_component.items()})
        notes.append("its scales are in lora_adapter_metadata, which diffusers reads from version 0.34 on")
    file.metadata = lambda digests: {**describe(digests), **extra}


def _is_folded(layer: Layer) -> bool:
    return layer.scale == 1 or folds_exactly(layer)


def _unfold(file: _File, target: FileFormat) -> None:
    """``up`` as it is, without its scale."""
    for key, layer in file.layers.items():
        name = f"{key}{target.suffixes['up']}"
        file.tensors[name] = layer.tensors["up.weight"].reshape(*file.tensors[name].shape)


def _path_for(source: Path, output: str | Path | None, name: str) -> Path:
    """The file to write: ``style.styleinject.safetensors`` → ``style.kohya.safetensors``; a folder for PEFT."""
    stem = source.name.removesuffix(STYLEINJECT_SUFFIX).removesuffix(".safetensors")
    usual = f"{stem}.{name}" if name == "peft" else f"{stem}.{name}.safetensors"
    if output is None:
        return source.with_name(usual)
    path = Path(output)
    return path / usual if name != "peft" and (path.is_dir() or str(output).endswith("/")) else path


def _check_outputs(source: Path, files: list[_File], force: bool) -> None:
    for file in files:
        target = file.path / "adapter_model.safetensors" if file.config else file.path
        if target.exists() and target.resolve() == source.resolve():
            raise FileAccessError("is the source itself", file=target, hint=f"Name another with {option('output')}.")
        if target.exists() and not force:
            hint = f"Overwrite it with {switch('force')}, or name another with {option('output')}."
            raise FileAccessError("already exists", file=target, hint=hint)


def _write(file: _File, force: bool, progress: Callable[[int, int], None] | None) -> int:
    """Write one file, or a folder with its configuration; the bytes of it."""
    path = file.path
    if file.config is not None:
        path.mkdir(parents=True, exist_ok=True)
        text = json.dumps(file.config, indent=2, sort_keys=True) + "\n"
        (path / CONFIG_NAME).write_text(text, encoding="utf-8")
        path /= "adapter_model.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_safetensors(path, file.tensors, file.metadata, overwrite=force, progress=progress).size


def _count_modules(files: list[_File]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for file in files:
        for key in file.layers:
            name = key.partition(".")[0]
            counts[name] = counts.get(name, 0) + 1
    return counts


def _count_ranks(files: list[_File]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for file in files:
        for layer in file.layers.values():
            counts[layer.rank] = counts.get(layer.rank, 0) + 1
    return counts
