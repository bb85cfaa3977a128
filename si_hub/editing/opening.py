"""Any adapter file, ours or converted in memory."""

from __future__ import annotations

from pathlib import Path

from si_hub import converters, format
from si_hub.adapter import Adapter
from si_hub.architectures import Architecture, load
from si_hub.basemodel import find_base
from si_hub.converters.dense import Weights
from si_hub.converters.source import weights_file
from si_hub.errors import BaseMismatch, UsageError
from si_hub.storage.header import read_safetensors
from si_hub.words import label, option


def open_adapter(source: Path, base: str | Path | Architecture | None) -> tuple[Adapter, Architecture, Weights | None]:
    """The adapter, the base model that its names are of, and that one's weights where they are known.

    Args:
        base: of a foreign file: see `si_hub.convert`. Of a StyleInject file the folder or checkpoint of its own base.

    Raises:
        BaseMismatch: a StyleInject file of another base model.
        UsageError: a StyleInject file whose base model is not known without its folder.
        SiHubError: everything of `si_hub.converters.convert_source` and `si_hub.format.read`.
    """
    architecture, weights = find_base(base)
    file = weights_file(source) if source.is_dir() else source
    if _is_ours(file):
        adapter = format.read(file)
        said = adapter.base_model.architecture
        if architecture is not None and architecture.name != said:
            raise BaseMismatch(
                "is for another base model", file=source, key=label("base"), expected=said, found=architecture.name
            )
        return adapter, architecture or _load(said, source), weights
    found = converters.convert_source(source, base=architecture, weights=weights, allow_large=True)
    return found.adapter, found.base, weights


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
