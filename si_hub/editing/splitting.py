"""`split`: one adapter as several, by components, named styles or blocks of the model, which together are it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from si_hub import __version__
from si_hub import format as file_format
from si_hub.adapter import Adapter, Component, Layer
from si_hub.architectures import Architecture
from si_hub.converters.numbers import as_float64
from si_hub.converters.source import STYLEINJECT_SUFFIX
from si_hub.editing.opening import open_alone
from si_hub.errors import ConversionRefused, FileAccessError, UsageError
from si_hub.foreign import join_safely
from si_hub.report.text import size_text
from si_hub.schedule import check_constant
from si_hub.storage.access import tell_access_errors
from si_hub.storage.tensors import Tensor
from si_hub.words import label, option, rename_keywords, switch

By = Literal["component", "branch", "block"]
#: What of a document is of the whole adapter, and of each of its parts too.
_KEPT = ("title", "author", "license", "trigger_words", "preview_prompts", "tags", "training", "extensions")


@dataclass(frozen=True, slots=True)
class Split:
    """An adapter apart.

    Attributes:
        source: the file read.
        paths: the files written, by the part that each is, or that would be.
        layers: of each part.
        sizes: bytes of each part; of none where nothing was written.
    """

    source: Path
    paths: dict[str, Path]
    layers: dict[str, int]
    sizes: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON data."""
        return {
            "source": str(self.source),
            "parts": {
                part: {"path": str(path), "layers": self.layers[part], "size": self.sizes.get(part)}
                for part, path in self.paths.items()
            },
        }  # fmt: skip

    def as_text(self) -> str:
        """The result as lines for people."""
        return join_safely([
            f"{self.source}: {len(self.paths)} parts" + ("" if self.sizes else ", nothing is written"),
            *(
                f"  {path}  {self.layers[part]} layers"
                + (f", {size_text(self.sizes[part])}" if part in self.sizes else "")
                for part, path in self.paths.items()
            ),
        ])  # fmt: skip


@tell_access_errors()
@rename_keywords(overwrite="force")
def split(
    source: str | Path,
    output: str | Path | None = None,
    *,
    by: By = "component",
    base: str | Path | Architecture | None = None,
    force: bool = False,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Split:
    """Write an adapter's parts as files of their own: ``style.unet.styleinject.safetensors`` and its like.

    Args:
        source: a StyleInject file, or any other adapter.
        output: the folder for them, made where there is none; by default the source's.
        by: ``component``; ``branch``, each style an adapter that is always that style; ``block`` of the model.
        base: of a foreign file.
        force: replace files that are there.
        dry_run: say what would be written.
        progress: called with (files done, files in all).

    Raises:
        UsageError: no such way to split.
        ConversionRefused: there is one part only.
        FileAccessError: a file is there.
    """
    if by not in get_args(By):
        raise UsageError("is no way to split", key=label("by"), expected=" or ".join(get_args(By)), found=by)
    file = Path(source)
    adapter = open_alone(file, base)
    check_constant(adapter.about, file)
    parts = dict(_PARTS[by](adapter))
    if len(parts) < 2:
        raise ConversionRefused(f"is of one {by} only", file=file, key=label("by"), found=", ".join(parts) or "none")
    folder = file.parent if output is None else Path(output)
    stem = file.name.removesuffix(STYLEINJECT_SUFFIX).removesuffix(".safetensors")
    paths = {part: folder / f"{stem}.{part}{STYLEINJECT_SUFFIX}" for part in parts}
    for path in paths.values():
        if path.exists() and not force:
            raise FileAccessError(
                "already exists", file=path,
                hint=f"Overwrite it with {switch('force')}, or name another folder with {option('output')}.",
            )  # fmt: skip
    sizes: dict[str, int] = {}
    if not dry_run:
        folder.mkdir(parents=True, exist_ok=True)
        about = {key: value for key, value in adapter.about.items() if key in _KEPT}
        about["provenance"] = {"family": "split", "tool": f"si-hub {__version__}", "exact": True}
        if file.is_file():
            about["provenance"]["sources"] = [{"name": file.name, "size": file.stat().st_size}]
        for number, (part, one) in enumerate(parts.items()):
            named = replace(one, about=about, metadata={})
            sizes[part] = file_format.write(named, paths[part], overwrite=force).size
            if progress:
                progress(number + 1, len(parts))
    layers = {part: sum(len(held.layers) for held in one.components.values()) for part, one in parts.items()}
    return Split(file, paths, layers, sizes)


def _by_component(adapter: Adapter) -> Iterator[tuple[str, Adapter]]:
    for name, component in adapter.components.items():
        yield name, _keep_names(replace(adapter, components={name: component}))


def _keep_names(adapter: Adapter) -> Adapter:
    """An adapter without names of branches where no layer has branches."""
    pairs = any(layer.rank for component in adapter.components.values() for layer in component.layers.values())
    return adapter if pairs else replace(adapter, branches=())


def _by_block(adapter: Adapter) -> Iterator[tuple[str, Adapter]]:
    found: dict[str, tuple[str, Component]] = {}
    for name, component in adapter.components.items():
        for path, layer in component.layers.items():
            home = found.setdefault(f"{name}.{name_block(path)}", (name, Component(component.class_name)))
            home[1].layers[path] = layer
        if component.embeddings:
            found[f"{name}.embedding"] = name, Component(component.class_name, {}, component.embeddings)
    for block, (name, part) in found.items():
        yield block, _keep_names(replace(adapter, components={name: part}))


def name_block(path: str) -> str:
    """The block that a module is of: ``down_blocks.0``, ``transformer_blocks.17``, ``mid_block``, ``conv_in``."""
    segments = path.split(".")
    at = next((number for number, segment in enumerate(segments) if segment.isdecimal()), None)
    return segments[0] if at is None or segments[0] == "mid_block" else ".".join(segments[: at + 1])


def _by_branch(adapter: Adapter) -> Iterator[tuple[str, Adapter]]:
    count = max(
        (layer.branches for component in adapter.components.values() for layer in component.layers.values()), default=0
    )
    names = adapter.branches or tuple(f"branch{number + 1}" for number in range(count))
    for number, name in enumerate(names if count > 1 else ()):
        components = {}
        for key, component in adapter.components.items():
            layers = {path: _take_branch(layer, number) for path, layer in component.layers.items()}
            held = {path: layer for path, layer in layers.items() if layer is not None}
            if held or component.embeddings:
                components[key] = Component(component.class_name, held, component.embeddings)
        if components:
            yield _as_file_name(name), replace(adapter, components=components, branches=())


def _take_branch(layer: Layer, branch: int) -> Layer | None:
    """A layer that is always one branch, without the ranks that this one never has; None where nothing is left."""
    import numpy

    if layer.branches < 2:
        return layer
    rank, tensors = layer.rank, layer.tensors
    branched = "core.weight" if "core.weight" in tensors else "down.weight"
    down = tensors[branched].rows(branch * rank, (branch + 1) * rank)
    used = as_float64(down).reshape(rank, -1).any(axis=1)
    kept = {leaf: tensor for leaf, tensor in tensors.items() if not leaf.startswith("router.")}
    if not used.any():
        kept = {
            leaf: tensor for leaf, tensor in kept.items() if leaf not in {"down.weight", "core.weight", "up.weight"}
        }
        return Layer(kept) if kept else None
    if used.all() or layer.groups > 1:
        return replace(layer, tensors=kept | {branched: down})
    places = numpy.flatnonzero(used).tolist()
    kept[branched] = Tensor.concatenate([down.rows(place, place + 1) for place in places])
    kept["up.weight"] = Tensor.from_torch(tensors["up.weight"].torch()[:, places])
    # The scale is alpha over the rank, and stays.
    return replace(layer, tensors=kept, alpha=None if layer.alpha is None else layer.scale * len(places))


def _as_file_name(text: str) -> str:
    """A branch's name, which may be any text, as part of a file's name."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in text)[:80] or "_"


_PARTS: dict[str, Callable[[Adapter], Iterator[tuple[str, Adapter]]]] = {
    "component": _by_component, "branch": _by_branch, "block": _by_block,
}  # fmt: skip
