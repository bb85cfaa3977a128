"""The foreign adapter as it lies on disk: its tensors, its header metadata, and a configuration beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from si_hub.architectures.folder import COMPONENT, read_object
from si_hub.architectures.recognise import may_be_pickle
from si_hub.errors import AmbiguousFamily, FormatError, MissingFile, NotSafetensors, UnsupportedFamily
from si_hub.expressions import read_patterns
from si_hub.storage.header import SafetensorsFile, check_count, parse_json, read_safetensors
from si_hub.storage.pickles import load_pickle
from si_hub.storage.tensors import Tensor

#: Weight files of a folder, best first: PEFT's, diffusers'.
FOLDER_NAMES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
CONFIG_NAME = "adapter_config.json"
#: Where diffusers keeps the PEFT configuration of each component, inside the header.
METADATA_CONFIG = "lora_adapter_metadata"
#: Settings of a PEFT configuration that are values by pattern.
_PATTERNS = ("rank_pattern", "alpha_pattern")
#: Names of ``modules_to_save``; real configurations have a few.
_SAVED_LIMIT = 64
#: How converted files are called: they are never a source.
STYLEINJECT_SUFFIX = ".styleinject.safetensors"


@dataclass(frozen=True, slots=True)
class Source:
    """A foreign adapter.

    Attributes:
        path: the weights file, or the folder of several.
        size: bytes of the weights.
        tensors: by name, not read.
        metadata: of its header.
        configs: PEFT configurations by component name, their patterns as tables; ``""`` is the one for all.
        parts: where each component has a folder of its own, the sources there.
    """

    path: Path
    size: int
    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    parts: tuple[Source, ...] = ()


def open_source(path: str | Path) -> Source:
    """Open a safetensors file, a PEFT folder or a diffusers LoRA folder; headers only.

    Training scripts save one PEFT folder a component, ``unet/`` and ``text_encoder/``: their parent is one adapter.

    Raises:
        MissingFile, FileAccessError: nothing there, or nothing readable.
        AmbiguousFamily: a folder of several files, none under a name that says it is the adapter.
        UnsupportedFamily: a pickle of more than tensors.
        FormatError: a header or configuration that breaks its rules.
    """
    path = Path(path)
    if folders := component_folders(path):
        return _join(path, folders)
    return source_of(_read(weights_file(path)))


def source_of(file: SafetensorsFile) -> Source:
    """The foreign adapter in a file whose header has been read already, with the configuration beside it.

    Raises:
        UnsupportedFamily: it is a StyleInject file.
        HeaderTooLarge: more tensors than any adapter has.
        FormatError: a configuration that breaks its rules.
    """
    if "styleinject" in file.metadata:
        raise UnsupportedFamily("is a StyleInject adapter already", file=file.path, hint="Load it as it is.")
    check_count(file)
    configs = _header_configs(file.metadata, file.path)
    beside = file.path.parent / CONFIG_NAME
    if beside.is_file():
        configs[""] = _with_tables(read_object(beside), beside)
    return Source(file.path, file.size, file.tensors, file.metadata, configs)


def component_folders(path: Path) -> list[Path]:
    """PEFT folders inside ``path`` that are named like components, where ``path`` holds no weights itself."""
    if not path.is_dir() or any((path / name).is_file() for name in FOLDER_NAMES):
        return []
    folders = sorted(config.parent for config in path.glob(f"*/{CONFIG_NAME}"))
    return [folder for folder in folders if COMPONENT.fullmatch(folder.name)]


def _join(path: Path, folders: list[Path]) -> Source:
    """Several components' PEFT folders as one source, each name under its component's."""
    parts = {folder.name: source_of(_read(weights_file(folder))) for folder in folders}
    return Source(
        path,
        sum(part.size for part in parts.values()),
        {f"{name}.{key}": tensor for name, part in parts.items() for key, tensor in part.tensors.items()},
        configs={name: part.configs[""] for name, part in parts.items()},
        parts=tuple(parts.values()),
    )


def weights_file(path: Path) -> Path:
    """The weights file that ``path`` is or holds."""
    if not path.is_dir():
        return path
    for name in FOLDER_NAMES:
        if (path / name).is_file():
            return path / name
    files = sorted(file for file in path.glob("*.safetensors") if not file.name.endswith(STYLEINJECT_SUFFIX))
    if len(files) == 1:
        return files[0]
    if files:
        raise AmbiguousFamily(
            "the folder holds several safetensors files", file=path,
            found=", ".join(file.name for file in files[:4]), hint="Name the one to convert.",
        )  # fmt: skip
    raise MissingFile(
        "the folder holds no safetensors adapter", file=path, expected=" or ".join(FOLDER_NAMES),
        hint="A pickle is only opened when it is named itself.",
    )  # fmt: skip


def _read(path: Path) -> SafetensorsFile:
    """The file's header; a pickle's tensors, where the name says that it is one."""
    try:
        return read_safetensors(path)
    except NotSafetensors:
        if not may_be_pickle(path):
            raise
        return SafetensorsFile(path, path.stat().st_size, 0, {}, _unpickle(path))


def _unpickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch file, opened so that no code in it can run."""
    import torch

    held = load_pickle(path, UnsupportedFamily)
    held = held.get("state_dict", held) if isinstance(held, dict) else held
    if not isinstance(held, dict) or not all(isinstance(value, torch.Tensor) for value in held.values()):
        raise UnsupportedFamily("is a pickle without a plain table of tensors", file=path)
    return {str(name): Tensor.from_torch(value) for name, value in held.items()}


def _header_configs(metadata: dict[str, str], path: Path) -> dict[str, dict[str, Any]]:
    if METADATA_CONFIG not in metadata:
        return {}
    configs: dict[str, dict[str, Any]] = {}
    table = parse_json(metadata[METADATA_CONFIG].encode(), file=path, what=METADATA_CONFIG, key=METADATA_CONFIG)
    if not isinstance(table, dict):
        raise FormatError("is not a JSON object", file=path, key=METADATA_CONFIG)
    for key, value in table.items():
        component, _, name = key.rpartition(".")
        configs.setdefault(component, {})[name] = value
    return {component: _with_tables(config, path, f"{component}.") for component, config in configs.items()}


def _with_tables(config: dict[str, Any], file: Path, prefix: str = "") -> dict[str, Any]:
    """A configuration whose patterns are read: once, and not for every module.

    Raises:
        FormatError: a pattern that is not understood; more names than any real configuration has.
    """
    saved = config.get("modules_to_save")
    if isinstance(saved, list) and len(saved) > _SAVED_LIMIT:
        raise FormatError(
            "names more modules than any real configuration", file=file, key=f"{prefix}modules_to_save",
            expected=f"at most {_SAVED_LIMIT}", found=len(saved),
        )  # fmt: skip
    tables = {
        name: read_patterns(config[name], prefix + name, file)
        for name in _PATTERNS
        if isinstance(config.get(name), dict)
    }
    return config | tables
