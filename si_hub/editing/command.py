"""`merge` and `resize`: several adapters as one, and one made smaller."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from si_hub import format as file_format
from si_hub.adapter import Adapter, Component, Layer
from si_hub.architectures import Architecture
from si_hub.compression import Compression, check_options, compress_layers
from si_hub.converters.checking import Own
from si_hub.converters.dense import Difference, Weights
from si_hub.converters.folding import fold_core
from si_hub.distill.budget.filesize import adapter_bytes
from si_hub.editing.adding import add_layers, as_branches
from si_hub.editing.interference import Overlap, measure_overlaps
from si_hub.editing.opening import open_adapter
from si_hub.editing.steadying import steady
from si_hub.editing.weighting import LayerWeights, check_weights, read_weights
from si_hub.errors import BaseMismatch, ConversionRefused, FileAccessError, UsageError
from si_hub.foreign import join_safely
from si_hub.report.layers import count_ranks
from si_hub.report.text import size_bytes, size_text, tally
from si_hub.schedule import check_constant
from si_hub.storage.access import tell_access_errors
from si_hub.storage.files import is_part
from si_hub.words import label, option, rename_keywords, switch

#: Files and their weights.
Terms = Sequence[tuple[Path, LayerWeights]]


@dataclass(frozen=True, slots=True)
class Edited:
    """A written adapter.

    Attributes:
        sources: the files read, each with its weight.
        path: the file written.
        base: name of the base model.
        branches: names of its styles.
        modules: layers by component.
        ranks: layers by rank.
        sizes: bytes of the sources together, and of the result.
        compression: the measured errors of layers that were made smaller.
        noise_error: what is left of the error of the predicted noise, where the distiller made it smaller.
        overlaps: of every two sources, where that is asked for.
        is_written: whether it is; not by ``dry_run``.
    """

    sources: tuple[tuple[Path, LayerWeights], ...]
    path: Path
    base: str
    branches: tuple[str, ...]
    modules: dict[str, int]
    ranks: dict[int, int]
    sizes: tuple[int, int]
    compression: Compression = field(default_factory=Compression)
    noise_error: float | None = None
    overlaps: tuple[Overlap, ...] = ()
    is_written: bool = True

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON data."""
        return {
            "sources": [{"path": str(path), "weight": weight.as_data()} for path, weight in self.sources],
            "path": str(self.path), "written": self.is_written,
            "base": self.base, "branches": list(self.branches), "modules": self.modules,
            "ranks": {str(rank): count for rank, count in self.ranks.items()}, "source_size": self.sizes[0],
            "size": self.sizes[1], **self.compression.as_dict(),
            **({} if self.noise_error is None else {"noise_error": self.noise_error}),
            **({"overlaps": [one.as_dict() for one in self.overlaps]} if self.overlaps else {}),
        }  # fmt: skip

    def as_text(self) -> str:
        """The result as lines for people."""
        modules = ", ".join(f"{name} {count}" for name, count in self.modules.items())
        return join_safely([
            f"{self.path}{'' if self.is_written else ': nothing is written'}",
            *(f"  from     {path}{weight.as_text()}" for path, weight in self.sources),
            f"  base     {self.base}",
            *([f"  styles   {', '.join(self.branches)}"] if self.branches else []),
            f"  modules  {sum(self.modules.values())} ({modules})",
            f"  rank     {tally(self.ranks)}",
            f"  size     {size_text(self.sizes[0])} -> {size_text(self.sizes[1])}"
            f"{'' if self.compression.errors or self.noise_error is not None else ', exact'}",
            *([] if self.noise_error is None else [f"  error    {self.noise_error:.4f} of the predicted noise's"]),
            *self.compression.as_lines(),
            *(line for overlap in self.overlaps for line in overlap.as_lines()),
        ])  # fmt: skip


@tell_access_errors()
@rename_keywords(overwrite="force")
def merge(
    sources: Mapping[Any, Any] | Sequence[str | Path | tuple[str | Path, Any]],
    output: str | Path,
    *,
    branches: bool = False,
    base: str | Path | Architecture | None = None,
    rank: int | None = None,
    tolerance: float | None = None,
    size: int | str | None = None,
    method: str = "svd",
    prompts: str | Path | None = None,
    title: str | None = None,
    report: bool = False,
    force: bool = False,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Edited:
    """Add up adapters of one base model, exactly, and write the sum.

    Args:
        sources: files, StyleInject's or any others, by weight, or in pairs with it; 1 where none are given. A
            weight is a number, or a table as `set_styleinject_adapters` has it: ``{"unet": {"down": 0.5}}``.
        output: the file to write.
        branches: keep each as a named style of one adapter, by its file's name, instead of adding them up; the weights
            are the mix that acts while no style is chosen.
        base: of foreign files; or the folder or checkpoint whose weights gains and rotations act on.
        rank, tolerance, size: make it smaller, with a measured error: the rank of every layer at most, the relative
            error of every layer at most, or bytes of the file at most.
        method: how it is made smaller: ``svd`` of each layer by itself, or ``calibrated``, by what the predicted noise
            feels of each layer, for which ``base`` is the folder of a pipeline that can be run.
        prompts: a file of prompts to calibrate with, one a line.
        title: of the result.
        report: measure how much every two of them overlap, layer by layer.
        force: replace an existing output.
        dry_run: compute it, and write nothing.
        progress: called with (numbers done, numbers in all) while it is made smaller.

    Raises:
        UsageError: fewer than two sources, two that are one style's name, or a weight of what an adapter has not.
        BaseMismatch: adapters of different base models.
        ConversionRefused: an adapter whose action depends on the picture, or what cannot be a branch.
    """
    listed = sources.items() if isinstance(sources, Mapping) else sources
    given = [one if isinstance(one, tuple) else (one, 1.0) for one in listed]
    terms = [(Path(path), read_weights(weight, Path(path))) for path, weight in given]
    if len(terms) < 2:
        raise UsageError("takes two adapters or more", found=len(terms))
    opened = [open_adapter(path, base) for path, _ in terms]
    for (path, _), (adapter, _, _) in zip(terms, opened, strict=True):
        check_constant(adapter.about, path)
    _check_bases([path for path, _ in terms], [adapter for adapter, _, _ in opened])
    _, architecture, weights = opened[0]
    steadied = [steady(adapter) for adapter, _, _ in opened]
    for (path, weight), adapter in zip(terms, steadied, strict=True):
        check_weights(weight, adapter, path)
    overlaps = _measure(terms, steadied, architecture, weights) if report else ()
    if branches:
        merged = _join_styles(terms, steadied, architecture)
    else:
        merged = sum_adapters(terms, steadied, architecture, weights)
    merged.about.update(_describe(terms, steadied, title))
    if method != "svd":
        found = _compile(merged, terms, Path(output), base, method, rank, tolerance, size, prompts, force, progress)
    else:
        found = _finish(
            merged, terms, Path(output), architecture, weights, rank, tolerance, size, force, dry_run, progress
        )  # fmt: skip
    return replace(found, overlaps=overlaps)


def _compile(
    merged: Adapter,
    terms: Terms,
    path: Path,
    base: str | Path | Architecture | None,
    method: str,
    rank: int | None,
    tolerance: float | None,
    size: int | str | None,
    prompts: str | Path | None,
    force: bool,
    progress: Callable[[int, int], None] | None,
) -> Edited:
    """The sum within a budget, weighed by the distiller."""
    from si_hub.editing.compiling import compile_sum

    if method != "calibrated":
        raise UsageError("is no way to make it smaller", key=label("method"), expected="svd, calibrated", found=method)
    if tolerance is not None or merged.branches or not isinstance(base, str | Path):
        raise UsageError(
            "takes a budget, a sum and a pipeline's folder", key=label("method"),
            hint=f"Say {option('size')} or {option('rank')}, and {option('base', 'FOLDER')}",
        )  # fmt: skip
    _check_output(path, terms, force)
    made = compile_sum(
        merged, base, path, rank=rank, size=_bytes(size), prompts=prompts, force=force, progress=progress
    )  # fmt: skip
    written = file_format.read(path)
    layers = [layer for component in written.components.values() for layer in component.layers.values()]
    before = sum(source.stat().st_size for source, _ in terms if source.is_file())
    return Edited(
        tuple(terms), path, written.base_model.architecture, (),
        {name: len(component.layers) for name, component in written.components.items()}, count_ranks(layers),
        (before, path.stat().st_size), noise_error=made.error,
    )  # fmt: skip


@tell_access_errors()
@rename_keywords(overwrite="force")
def resize(
    source: str | Path,
    output: str | Path,
    *,
    base: str | Path | Architecture | None = None,
    rank: int | None = None,
    tolerance: float | None = None,
    size: int | str | None = None,
    force: bool = False,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Edited:
    """Make an adapter smaller, with a measured error, and write it.

    Args:
        source: a StyleInject file, or any other adapter.
        output, base, rank, tolerance, size, force, dry_run, progress: as of `merge`; one of the three sizes is said.

    Raises:
        UsageError: no size, or two.
        ConversionRefused: an adapter whose action depends on the picture.
    """
    if not check_options(rank, tolerance, _bytes(size)):
        names = ", ".join(option(name) for name in ("rank", "tolerance", "size"))
        raise UsageError("say how small it is to be", key=label("rank"), hint=f"One of {names}")
    path = Path(source)
    adapter, architecture, weights = open_adapter(path, base)
    steadied = steady(adapter)
    steadied.about["provenance"] = _provenance([(path, LayerWeights())], "resized")
    return _finish(
        steadied, [(path, LayerWeights())], Path(output), architecture, weights, rank, tolerance, size, force, dry_run,
        progress,
    )  # fmt: skip


def _check_bases(paths: Sequence[Path], adapters: Sequence[Adapter]) -> None:
    first = adapters[0].base_model.architecture
    for path, adapter in zip(paths, adapters, strict=True):
        if adapter.base_model.architecture != first:
            raise BaseMismatch(
                "is for another base model than the first one", file=path, expected=first,
                found=adapter.base_model.architecture,
            )  # fmt: skip


def sum_adapters(
    terms: Terms,
    adapters: Sequence[Adapter],
    architecture: Architecture,
    weights: Weights | None,
) -> Adapter:
    """One adapter that does what all do together, each at its weight.

    Args:
        terms: what messages call them, and their weights.
        adapters: the same number, of one branch each.
        architecture, weights: of their base model.

    Raises:
        ConversionRefused: what cannot be added up.
    """
    components: dict[str, Component] = {}
    for name, path in _places(adapters):
        held = [
            (layer, weight.of(name, path))
            for adapter, (_, weight) in zip(adapters, terms, strict=True)
            if (layer := _layer(adapter, name, path)) is not None and weight.of(name, path)
        ]
        if not held:
            continue

        def expand(layer: Layer, name: str = name, path: str = path, first: Path = terms[0][0]) -> Difference:
            one = Adapter(adapters[0].base_model, {name: Component(None, {path: layer})})
            return Own(one, architecture, weights, first).expected((name, path))

        component = components.setdefault(name, Component(architecture.components[name].class_name))
        component.layers[path] = add_layers(f"{name}.{path}", held, expand)
    _add_embeddings(terms, adapters, components)
    return replace(adapters[0], components=components, branches=(), about={}, metadata={})


def _join_styles(terms: Terms, adapters: Sequence[Adapter], architecture: Architecture) -> Adapter:
    import math

    names = tuple(path.name.removesuffix(".safetensors").removesuffix(".styleinject") for path, _ in terms)
    if len(set(names)) < len(names):
        raise UsageError("two adapters would be one style's name", key=label("branches"), found=", ".join(names))
    if any(weight.table is not None for _, weight in terms):
        raise UsageError("a style's weight is one number", key=label("branches"),
                         hint="Merge it with its weights first, or choose them at run time")  # fmt: skip
    total = sum(max(weight.whole, 0.0) for _, weight in terms) or 1.0
    router = [math.log(max(weight.whole / total, 1e-6)) for _, weight in terms]
    components: dict[str, Component] = {}
    for name, path in _places(adapters):
        layers = [layer and fold_core(layer) for layer in (_layer(adapter, name, path) for adapter in adapters)]
        for layer, (file, _) in zip(layers, terms, strict=True):
            if layer is not None and layer.tensors.keys() - {"down.weight", "up.weight"}:
                raise ConversionRefused(
                    "only pairs can be branches", file=file, key=f"{name}.{path}",
                    found=", ".join(sorted(layer.tensors.keys() - {"down.weight", "up.weight"})),
                    hint="Make pairs of it first, or add the adapters up",
                )  # fmt: skip
        shape = architecture.components[name].modules[path].shape
        component = components.setdefault(name, Component(architecture.components[name].class_name))
        component.layers[path] = as_branches(layers, shape, router)
    _add_embeddings(terms, adapters, components)
    return replace(adapters[0], components=components, branches=names, about={}, metadata={})


def _measure(
    terms: Terms, adapters: Sequence[Adapter], architecture: Architecture, weights: Weights | None
) -> tuple[Overlap, ...]:
    own = [Own(adapter, architecture, weights, path) for adapter, (path, _) in zip(adapters, terms, strict=True)]
    return tuple(measure_overlaps(own, [weight for _, weight in terms]))


def _places(adapters: Sequence[Adapter]) -> list[tuple[str, str]]:
    """Every layer that one of them has, in their order."""
    return list(dict.fromkeys(
        (name, path) for adapter in adapters for name, one in adapter.components.items() for path in one.layers
    ))  # fmt: skip


def _layer(adapter: Adapter, name: str, path: str) -> Layer | None:
    component = adapter.components.get(name)
    return None if component is None else component.layers.get(path)


def _add_embeddings(terms: Terms, adapters: Sequence[Adapter], components: dict[str, Component]) -> None:
    """Textual inversions of all; ConversionRefused for a token that two have otherwise."""
    for adapter, (file, _) in zip(adapters, terms, strict=True):
        for name, component in adapter.components.items():
            for token, tensor in component.embeddings.items():
                home = components.setdefault(name, Component(component.class_name))
                held = home.embeddings.setdefault(token, tensor)
                if held is not tensor and held.tobytes() != tensor.tobytes():
                    raise ConversionRefused("another adapter has this token otherwise", file=file, key=token)


def _describe(terms: Terms, adapters: Sequence[Adapter], title: str | None) -> dict[str, Any]:
    words = dict.fromkeys(word for adapter in adapters for word in adapter.about.get("trigger_words", ()))
    said = {"title": title, "trigger_words": list(words), "provenance": _provenance(terms, "merged")}
    return {key: value for key, value in said.items() if value}


def _provenance(terms: Terms, family: str) -> dict[str, Any]:
    from si_hub import __version__

    sources = [{"name": path.name, "size": path.stat().st_size} for path, _ in terms if path.is_file()]
    return {"family": family, "tool": f"si-hub {__version__}", "sources": sources, "exact": True}


def _check_output(path: Path, terms: Terms, force: bool) -> None:
    if path.exists() and not force:
        hint = f"Overwrite it with {switch('force')}, or name another with {option('output')}."
        raise FileAccessError("already exists", file=path, hint=hint)
    if any(is_part(path, source) for source, _ in terms):
        raise FileAccessError("is a source itself", file=path, hint=f"Name another with {option('output')}.")


def _finish(
    adapter: Adapter,
    terms: Terms,
    path: Path,
    architecture: Architecture,
    weights: Weights | None,
    rank: int | None,
    tolerance: float | None,
    size: int | str | None,
    force: bool,
    dry_run: bool,
    progress: Callable[[int, int], None] | None,
) -> Edited:
    """Make it smaller where that is asked, and write it."""
    _check_output(path, terms, force)
    cost = Compression()
    if check_options(rank, tolerance, limit := _bytes(size)):
        if adapter.branches:
            raise UsageError("styles are not made smaller after they are joined", key=label("branches"),
                             hint="Resize the adapters first")  # fmt: skip
        own = Own(adapter, architecture, weights, terms[0][0])
        cost = compress_layers(
            adapter, own, terms[0][0], rank=rank, tolerance=tolerance, size=limit, progress=progress
        )  # fmt: skip
    bytes_written = adapter_bytes(adapter) if dry_run else file_format.write(adapter, path, overwrite=force).size
    layers = [layer for component in adapter.components.values() for layer in component.layers.values()]
    before = sum(source.stat().st_size for source, _ in terms if source.is_file())
    return Edited(
        tuple(terms), path, adapter.base_model.architecture, adapter.branches,
        {name: len(component.layers) for name, component in adapter.components.items()}, count_ranks(layers),
        (before, bytes_written), cost, is_written=not dry_run,
    )  # fmt: skip


def _bytes(size: int | str | None) -> int | None:
    try:
        return size_bytes(size) if isinstance(size, str) else size
    except ValueError as error:
        raise UsageError("is no size such as 40MB", key=label("size"), found=size) from error
