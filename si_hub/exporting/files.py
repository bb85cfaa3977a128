"""The files of an export: where they go, and how they come to be there whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from si_hub.adapter import Layer
from si_hub.converters.source import CONFIG_NAME, FOLDER_NAMES, STYLEINJECT_SUFFIX
from si_hub.errors import FileAccessError
from si_hub.storage.files import atomic_file, is_part
from si_hub.storage.tensors import Tensor
from si_hub.storage.write import Metadata, write_safetensors
from si_hub.words import option, switch

#: Ends of names of other files that adapters come in.
_PICKLES = (".pt", ".bin", ".ckpt", ".pth")


@dataclass(slots=True)
class ExportFile:
    """A file in the making.

    Attributes:
        path: of the file; of the folder where there is a configuration.
        tensors: by name.
        layers: what they are, by component and module there.
        stems: how the names of a layer's tensors begin.
        metadata: of the header.
        config: PEFT's, of a folder.
    """

    path: Path
    tensors: dict[str, Tensor] = field(default_factory=dict)
    layers: dict[str, Layer] = field(default_factory=dict)
    stems: dict[str, str] = field(default_factory=dict)
    metadata: Metadata = field(default_factory=dict)
    config: dict[str, Any] | None = None

    @property
    def weights(self) -> Path:
        """The file that has the tensors."""
        return self.path if self.config is None else self.path / FOLDER_NAMES[0]

    def layers_by_component(self) -> dict[str, dict[str, Layer]]:
        """The layers, component by component."""
        found: dict[str, dict[str, Layer]] = {}
        for key, layer in self.layers.items():
            name, _, path = key.partition(".")
            found.setdefault(name, {})[path] = layer
        return found


def place_output(source: Path, output: str | Path | None, name: str, *, folder: bool = False) -> Path:
    """The file to write: ``style.styleinject.safetensors`` → ``style.kohya.safetensors``; ``style.peft``, a folder."""
    stem = source.name.removesuffix(STYLEINJECT_SUFFIX).removesuffix(".safetensors")
    stem = Path(stem).stem if stem.endswith(_PICKLES) else stem
    usual = f"{stem}.{name}" if folder else f"{stem}.{name}.safetensors"
    if output is None:
        return source.with_name(usual)
    path = Path(output)
    return path / usual if str(output).endswith("/") or (path.is_dir() and not folder) else path


def check_outputs(source: Path, files: list[ExportFile], force: bool) -> None:
    """Raise FileAccessError where a file is in the way, or is what is exported."""
    for file in files:
        target = file.weights
        if target.exists() and is_part(target, source):
            raise FileAccessError("is the source itself", file=target, hint=f"Name another with {option('output')}.")
        for one in (target,) if file.config is None else (target, file.path / CONFIG_NAME):
            if one.exists() and not force:
                hint = f"Overwrite it with {switch('force')}, or name another with {option('output')}."
                raise FileAccessError("already exists", file=one, hint=hint)


def write_files(files: list[ExportFile], force: bool, progress: Callable[[int, int], None] | None) -> int:
    """Write all of them, each whole or not at all; their bytes."""
    total = sum(tensor.nbytes for file in files for tensor in file.tensors.values())
    written = before = 0
    for file in files:

        def tell(done: int, _: int, before: int = before) -> None:
            if progress:
                progress(before + done, total)

        written += _write(file, force, tell)
        before += sum(tensor.nbytes for tensor in file.tensors.values())
    return written


def _write(file: ExportFile, force: bool, progress: Callable[[int, int], None]) -> int:
    file.weights.parent.mkdir(parents=True, exist_ok=True)
    size = write_safetensors(
        file.weights, file.tensors, file.metadata, overwrite=force, as_library=True, progress=progress
    ).size
    if file.config is not None:
        text = json.dumps(file.config, indent=2, sort_keys=True) + "\n"
        with atomic_file(file.path / CONFIG_NAME, force) as beside:
            beside.write(text.encode())
    return size
