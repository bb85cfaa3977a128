"""`fuse`: an adapter in a model's own weights, written as a model: folder to folder, file to file.

Tensors are read, changed and written one after another; what the adapter does not change is copied byte for byte.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from si_hub.adapter import Adapter
from si_hub.architectures.folder import weight_files
from si_hub.converters.checking import Own
from si_hub.distill.pair.model import ModelOnDisk, component_folder
from si_hub.distill.pair.opening import open_model
from si_hub.distill.pair.weights import Weight
from si_hub.editing.opening import open_adapter
from si_hub.editing.steadying import steady
from si_hub.editing.unfusing import FUSED, read_fusions
from si_hub.errors import BaseMismatch, ConversionRefused, FileAccessError
from si_hub.foreign import join_safely
from si_hub.hub.pull.verify import hash_file
from si_hub.report.text import size_text
from si_hub.schedule import check_constant
from si_hub.storage.access import tell_access_errors
from si_hub.storage.files import is_part
from si_hub.storage.header import read_safetensors
from si_hub.storage.leftovers import TEMPORARY_PREFIX
from si_hub.storage.tensors import DTYPE_SIZES, Computed, Tensor, torch_names
from si_hub.storage.write import Digests, write_safetensors
from si_hub.words import option, rename_keywords, switch

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Fused:
    """A written model.

    Attributes:
        adapter, base, path: what was read, and the folder or file written.
        weight: of the adapter.
        changed: tensors that the adapter changed; ``kept`` were copied.
        size: bytes written.
        is_written: whether it is; not by ``dry_run``, whose size is the base's.
    """

    adapter: Path
    base: Path
    path: Path
    weight: float
    changed: int
    kept: int
    size: int
    is_written: bool = True

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON data."""
        return {
            "adapter": str(self.adapter), "base": str(self.base), "path": str(self.path), "weight": self.weight,
            "changed": self.changed, "kept": self.kept, "size": self.size, "written": self.is_written,
        }  # fmt: skip

    def as_text(self) -> str:
        """The result as lines for people."""
        return join_safely([
            f"{self.path}{'' if self.is_written else ': nothing is written'}",
            f"  base     {self.base}",
            f"  adapter  {self.adapter}, weight {self.weight:g}",
            f"  tensors  {self.changed} changed, {self.kept} copied as they are",
            f"  size     {size_text(self.size)}",
        ])  # fmt: skip


@tell_access_errors()
@rename_keywords(overwrite="force")
def fuse(
    adapter: str | Path,
    base: str | Path,
    output: str | Path,
    *,
    weight: float = 1.0,
    styles: Mapping[str, float] | None = None,
    wide: bool = False,
    force: bool = False,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Fused:
    """Write a model with an adapter in its weights; dtypes stay, and what the adapter leaves alone is copied.

    Args:
        adapter: a StyleInject file, or any other adapter.
        base: diffusers folder or single-file checkpoint.
        output: the folder, or file, to write.
        weight: of the adapter.
        styles: weights by name, of an adapter of several styles.
        wide: write what is changed in float32, whatever the base has, so that nothing of the change is rounded away.
        force: replace an existing file; an existing folder is never replaced.
        dry_run: say what would be changed, and write nothing.
        progress: called with (bytes done, bytes in all) for each file.

    Raises:
        BaseMismatch: the adapter has layers for modules that the base has not.
        ConversionRefused: what no weight can hold, or a tensor of the file that holds several modules.
        FileAccessError: the output is there, or is a part of the base.
    """
    source, path = Path(adapter), Path(output)
    model = open_model(base)
    _check_output(path, model, force)
    opened, architecture, weights = open_adapter(source, base)
    check_constant(opened.about, source)
    steadied = steady(opened, styles)
    changes = _change(steadied, Own(steadied, architecture, weights, source), model, weight, wide)
    if dry_run:
        changed = sum(map(len, changes.values()))
        count = sum(map(len, model.components.values()))
        held = [model.path] if model.layout == "file" else [file for file in model.path.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in held)
        return Fused(source, model.path, path, weight, changed, count - changed, size, is_written=False)
    sha256 = hash_file(source, "sha256") if source.is_file() else ""
    said = {"adapter": source.name, "sha256": sha256, "weight": weight, **({"styles": dict(styles)} if styles else {})}
    if model.layout == "file":
        kept, size = _rewrite(model.path, path, changes[""], said, force, progress)
        return Fused(source, model.path, path, weight, len(changes[""]), kept, size)
    return _write_folder(source, model, path, changes, said, weight, progress)


def _check_output(path: Path, model: ModelOnDisk, force: bool) -> None:
    if path.exists() and (path.is_dir() or not force):
        hint = f"Name another with {option('output')}" + ("." if path.is_dir() else f", or use {switch('force')}.")
        raise FileAccessError("already exists", file=path, hint=hint)
    inside = model.layout == "folder" and model.path.resolve() in path.resolve().parents
    if inside or is_part(path, model.path):
        raise FileAccessError("is the base model, or in it", file=path, hint=f"Name another with {option('output')}.")


def _change(adapter: Adapter, own: Own, model: ModelOnDisk, weight: float, wide: bool) -> dict[str, dict[str, Tensor]]:
    """New tensors by component and the file's own names; all under "" for a single file."""
    found: dict[str, dict[str, Tensor]] = {}
    whole = read_safetensors(model.path).tensors if model.layout == "file" else {}
    for name, component in adapter.components.items():
        if component.embeddings:
            raise ConversionRefused(
                "is a textual inversion, which no weight of the model holds", file=own.file,
                key=f"{name}.{next(iter(component.embeddings))}",
            )  # fmt: skip
        home = found.setdefault("" if model.layout == "file" else name, {})
        for path in component.layers:
            difference = own.expected((name, path))
            for leaf, values in (("weight", difference.weight), ("bias", difference.bias)):
                if values is None:
                    continue
                held = model.components.get(name, {}).get(f"{path}.{leaf}")
                held = model.components.get(name, {}).get(path) if held is None and leaf == "weight" else held
                if held is None:
                    raise BaseMismatch(
                        f"the base has no {leaf} there, so nothing can be fused into it", file=own.file,
                        key=f"{name}.{path}", hint="Load the adapter beside the model instead",
                    )  # fmt: skip
                origin = held.sources[0]
                part = held.tensor is None or (origin in whole and whole[origin].count != held.tensor.count)
                if part or len(held.sources) != 1:
                    raise ConversionRefused(
                        "the file keeps several modules in one tensor, which is not written again", file=model.path,
                        key=origin, hint="Name the model's diffusers folder as the base",
                    )  # fmt: skip
                home[origin] = _add(held, whole.get(origin), values, weight, wide)
    return found


def _add(held: Weight, whole: Tensor | None, values: Callable[[], torch.Tensor], weight: float, wide: bool) -> Tensor:
    """A parameter with the change in it, in its own dtype, in the shape that the file has."""
    assert held.tensor is not None, "several modules in one tensor are refused"
    stored = whole or held.tensor
    dtype = "F32" if wide else stored.dtype

    def make() -> bytes:
        kind = {name: one for one, name in torch_names().items()}[dtype]
        total = stored.torch().double() + weight * values().reshape(stored.shape)
        return Tensor.from_torch(total.to(kind)).tobytes()

    return Tensor(dtype, stored.shape, (Computed(stored.count * DTYPE_SIZES[dtype], make),))


def _rewrite(
    source: Path, path: Path, changes: Mapping[str, Tensor], said: Mapping[str, Any], force: bool,
    progress: Callable[[int, int], None] | None,
) -> tuple[int, int]:  # fmt: skip
    """Write a file with some tensors changed; how many are not, and its bytes."""
    file = read_safetensors(source)
    tensors = {name: changes.get(name, tensor) for name, tensor in file.tensors.items()}
    before = read_fusions(file.metadata)

    def describe(digests: Digests) -> dict[str, str]:
        entry = {**said, "base_sha256": digests.source}
        return {**file.metadata, FUSED: json.dumps([*before, entry], sort_keys=True)}

    written = write_safetensors(
        path, tensors, describe, overwrite=force, hash_source=source, progress=progress
    )  # fmt: skip
    return len(tensors) - sum(name in file.tensors for name in changes), written.size


def _write_folder(
    source: Path, model: ModelOnDisk, path: Path, changes: Mapping[str, Mapping[str, Tensor]], said: Mapping[str, Any],
    weight: float,
    progress: Callable[[int, int], None] | None,
) -> Fused:  # fmt: skip
    """A copy of the folder with the changed components' weights written anew; it appears whole."""
    place = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    shutil.rmtree(place, ignore_errors=True)
    written = {file for name in changes for file in weight_files(component_folder(model.path, name))}
    skipped = {str(file.relative_to(model.path)) for file in written}
    changed = kept = 0
    try:
        shutil.copytree(
            model.path, place,
            ignore=lambda folder, names: [
                name for name in names if str((Path(folder) / name).relative_to(model.path)) in skipped
            ],
        )  # fmt: skip
        for name, tensors in changes.items():
            for file in weight_files(component_folder(model.path, name)):
                held = read_safetensors(file).tensors
                own = {key: tensor for key, tensor in tensors.items() if key in held}
                left, _ = _rewrite(file, place / file.relative_to(model.path), own, said, False, progress)
                changed, kept = changed + len(own), kept + left
        place.rename(path)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Fused(source, model.path, path, weight, changed, kept, size)
