"""`unfuse`: which adapters a model has in its weights, at which weight, and whether another is what it was before.

Weights are rounded when an adapter is fused into them, so nothing but the base itself gives the base back bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from si_hub.errors import ConversionRefused, MissingFile
from si_hub.foreign import join_safely
from si_hub.hub.pull.verify import hash_file
from si_hub.storage.access import tell_access_errors
from si_hub.storage.header import read_safetensors
from si_hub.words import call, option

#: Header key that says what was fused into a file: a JSON list, the first that was fused first.
FUSED = "styleinject.fused"
#: What one entry of it has, and of which kind.
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "adapter": str,
    "sha256": str,
    "base_sha256": str,
    "weight": (int, float),
}


def read_fusions(metadata: Mapping[str, str]) -> list[dict[str, Any]]:
    """What a header says was fused into its file; nothing where it says nothing that can be read."""
    try:
        found = json.loads(metadata.get(FUSED, "[]"))
    except (ValueError, RecursionError):
        return []
    entries = found if isinstance(found, list) else []
    return [
        one for one in entries
        if isinstance(one, dict) and all(isinstance(one.get(name), kind) for name, kind in _FIELDS.items())
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unfused:
    """What a model says of adapters in its weights.

    Attributes:
        path: of the model.
        files: by file, what was fused into it: ``adapter``, its ``sha256``, ``weight``, ``base_sha256`` of the
            file before.
        base: a model that is to be what it was before.
        is_base: whether it is, bit for bit, by file; empty where no model is given.
    """

    path: Path
    files: dict[str, list[dict[str, Any]]]
    base: Path | None
    is_base: dict[str, bool]

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON data."""
        said = {"base": str(self.base), "is_base": self.is_base} if self.base else {}
        return {"path": str(self.path), "files": self.files, **said}

    def as_text(self) -> str:
        """The result as lines for people."""
        lines = [str(self.path)]
        for name, entries in self.files.items():
            lines += [
                f"  {name}: {one['adapter']}, weight {one['weight']:g}, sha256 {one['sha256'] or 'unknown'}"
                for one in entries
            ]
            if name in self.is_base:
                word = "is" if self.is_base[name] else "is not"
                lines.append(f"  {name}: that of {self.base} {word} what it was before, bit for bit")
        if not self.is_base:
            last = next(iter(self.files.values()))[-1]
            back = call("fuse", last["adapter"], str(self.path), output="BACK", weight=f"{-last['weight']:g}")
            lines += [
                f"  way back: the base itself, which {option('base', 'MODEL')} tells from others;",
                f"            or, to rounding and for adapters that are no function of the weights, {back}",
            ]
        return join_safely(lines)


@tell_access_errors()
def find_fused(model: str | Path, base: str | Path | None = None) -> Unfused:
    """Say which adapters were fused into a model, and whether another one is what it was before.

    Args:
        model: diffusers folder or single-file checkpoint, as `si_hub.fuse` wrote it.
        base: a model of the same layout, whose files are hashed.

    Raises:
        ConversionRefused: nothing says that an adapter was fused into it.
        MissingFile: no such model; the base lacks one of its files.
    """
    path, other = Path(model), None if base is None else Path(base)
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    found = {_name(file, path): read_fusions(read_safetensors(file).metadata) for file in files}
    found = {name: entries for name, entries in found.items() if entries}
    if not found:
        raise ConversionRefused("says of no adapter that was fused into it", file=path, key=FUSED)
    same = {}
    for name, entries in found.items() if other else ():
        assert other is not None
        twin = other / name if path.is_dir() else other
        if not twin.is_file():
            raise MissingFile("the base has no such file", file=twin, expected="a model of the same layout")
        same[name] = hash_file(twin, "sha256") == entries[0]["base_sha256"]
    return Unfused(path, found, other, same)


def _name(file: Path, model: Path) -> str:
    return file.relative_to(model).as_posix() if model.is_dir() else file.name
