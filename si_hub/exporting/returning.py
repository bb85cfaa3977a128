"""The files that an adapter was converted from, written again: with their names, headers and configurations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from si_hub.adapter import Adapter
from si_hub.architectures import Architecture
from si_hub.architectures.checkpoint import DENOISERS
from si_hub.converters.metadata import describe
from si_hub.converters.source import FOLDER_NAMES
from si_hub.errors import ConversionRefused
from si_hub.exporting.files import ExportFile, place_output
from si_hub.exporting.headers import configure_folder, describe_file, diffusers_metadata, peft_config
from si_hub.exporting.original import Original, spell_back
from si_hub.storage.write import Digests

ORIGINAL = "original"
#: Words of the document that were moved out of the source's header, and what ModelSpec calls them.
_MOVED = ("title", "author", "license", "tags", "trigger_words")


@dataclass(frozen=True, slots=True)
class _Home:
    """A file of the source: its name, none where there was one; its components."""

    name: str = ""
    held: dict[str, Original] = field(default_factory=dict)


def return_files(
    adapter: Adapter, base: Architecture, source: Path, output: str | Path | None
) -> tuple[list[ExportFile], list[str]]:
    """The source's file, folder, folders or two files, and what there is to say of them.

    Raises:
        ConversionRefused: see `spell_back`.
    """
    provenance = adapter.about.get("provenance", {})
    spelled = spell_back(adapter, base)
    homes = _find_homes(provenance, spelled)
    folders = all(home.name.endswith(FOLDER_NAMES[0]) for home in homes)
    configured = provenance.get("alpha_layout") == "configuration"
    path = place_output(source, output, ORIGINAL, folder=folders or len(homes) > 1)
    files = []
    for home in homes:
        inner = Path(home.name).parent if folders else Path(home.name)
        file = ExportFile(path / inner if len(homes) > 1 else path)
        for name, one in home.held.items():
            # In a folder of its own a component's name stands before no tensor.
            cut = f"{name}." if folders and len(homes) > 1 else ""
            file.tensors |= {key.removeprefix(cut): tensor for key, tensor in one.tensors.items()}
            file.layers |= {f"{name}.{body}": layer for body, layer in one.layers.items()}
        by_component = file.layers_by_component()
        extra: dict[str, str] = {}
        if folders:
            file.config = configure_folder(
                adapter, {key: one for held in by_component.values() for key, one in held.items()}
            )
        elif configured:
            extra = diffusers_metadata({name: peft_config(held) for name, held in by_component.items()})
        file.metadata = _restore_header(adapter, file, extra)
        files.append(file)
    lost = provenance.get("left_out")
    notes = [f"{lost} tensors of the source were left out when it was converted"] if lost else []
    return files, notes


def _find_homes(provenance: dict[str, Any], spelled: dict[str, Original]) -> list[_Home]:
    """The files of the source with their components."""
    names = [str(one.get("name", "")) for one in provenance.get("sources", ())]
    if not names:
        return [_Home(str(provenance.get("source", {}).get("name", "")), spelled)]
    if all("/" in name for name in names):
        return [
            _Home(name, {folder: spelled[folder]}) for name in names if (folder := name.partition("/")[0]) in spelled
        ]
    if len(names) != 2 or len(set(names)) != 2:
        raise ConversionRefused("its sources' files cannot be told apart", found=", ".join(names), hint="Name a format")
    second = [name for name in DENOISERS if name in spelled][1:]
    return [
        _Home(names[0], {name: one for name, one in spelled.items() if name not in second}),
        _Home(names[1], {name: spelled[name] for name in second}),
    ]


def _restore_header(adapter: Adapter, file: ExportFile, extra: dict[str, str]) -> Callable[[Digests], dict[str, str]]:
    """The source's keys: those that were kept, and those that became fields of the document, hashes anew."""
    kept = dict(adapter.metadata)
    moved = [key for key in _MOVED if adapter.about.get(key) and describe(kept).get(key) != adapter.about[key]]
    said = describe_file(adapter, list(file.layers.values()))

    def restore(digests: Digests) -> dict[str, str]:
        derived = said(digests)
        # Only ModelSpec's keys move.
        spec = {key: text for key, text in derived.items() if key.startswith("modelspec.")} if moved else {}
        if "title" not in moved:
            spec.pop("modelspec.title", None)
        hashed = {key: text for key, text in derived.items() if key == "sshs_model_hash"} if _is_kohyas(kept) else {}
        return {**kept, **spec, **hashed, **extra, "format": "pt"}

    return restore


def _is_kohyas(metadata: dict[str, str]) -> bool:
    return any(key.startswith("ss_") for key in metadata)
