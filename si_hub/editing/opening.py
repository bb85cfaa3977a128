"""Any adapter file, ours or converted in memory."""

from __future__ import annotations

from pathlib import Path

from si_hub import converters, format
from si_hub.adapter import Adapter
from si_hub.architectures import Architecture, load
from si_hub.basemodel import find_base
from si_hub.converters.dense import Weights
from si_hub.converters.source import component_folders, weights_file
from si_hub.errors import BaseMismatch, UsageError
from si_hub.storage.header import read_safetensors
from si_hub.words import label, option


def open_adapter(
    source: Path, base: str | Path | Architecture | None, *, whole_header: bool = False
) -> tuple[Adapter, Architecture, Weights | None]:
    """The adapter, the base model that its names are of, and that one's weights where they are known.

    Args:
        base: of a foreign file: see `si_hub.convert`. Of a StyleInject file the folder or checkpoint of its own base,
            or of one that has all modules that it changes.
        whole_header: keep a foreign file's texts that are too large for a StyleInject header, such as a preview.

    Raises:
        BaseMismatch: a StyleInject file of another base model.
        UsageError: a StyleInject file whose base model is not known without its folder.
        SiHubError: everything of `si_hub.converters.convert_source` and `si_hub.format.read`.
    """
    architecture, weights = find_base(base)
    file = weights_file(source) if source.is_dir() and not component_folders(source) else source
    if _is_ours(file):
        adapter = format.read(file)
        said = adapter.base_model.architecture
        if architecture is not None and architecture.name != said:
            _check_base(adapter, architecture, source)
        return adapter, architecture or _load(said, source), weights
    found = converters.convert_source(source, base=architecture, weights=weights, allow_large=True)
    if whole_header:
        large = [key for key, reason in found.report.left_out.items() if "bytes" in reason]
        found.adapter.metadata.update((key, found.source.metadata[key]) for key in large)
    return found.adapter, found.base, weights


def _check_base(adapter: Adapter, architecture: Architecture, file: Path) -> None:
    """Raise BaseMismatch where a base model of another name lacks a module that the adapter changes."""
    for name, component in adapter.components.items():
        model = architecture.components.get(name)
        if lacking := [path for path in component.layers if model is None or path not in model.modules]:
            raise BaseMismatch(
                "is for another base model", file=file, key=label("base"), expected=adapter.base_model.architecture,
                found=f"{architecture.name}, which has no {name}.{lacking[0]}",
            )  # fmt: skip


def _is_ours(file: Path) -> bool:
    return file.suffix == ".safetensors" and format.is_styleinject(read_safetensors(file))


def _load(name: str, source: Path) -> Architecture:
    """A shipped base model; UsageError for one that only its own folder describes."""
    try:
        return load(name)
    except UsageError as error:
        raise UsageError(
            "is for a base model that is none of those known here", file=source, key=label("base"), found=name,
            hint=f"Name its folder: {option('base', 'FOLDER')}",
        ) from error  # fmt: skip


def open_alone(source: Path, base: str | Path | Architecture | None) -> Adapter:
    """The adapter alone, which a StyleInject file is without its base model; errors as of `open_adapter`."""
    file = weights_file(source) if source.is_dir() else source
    return format.read(file) if _is_ours(file) else open_adapter(source, base)[0]
