"""Somebody else's adapter for a pipeline: converted in memory, the pipeline itself being the base model.

What kind of model the pipeline is settles what names and shapes leave open; metadata of the file that say otherwise are
an error. The base's weights, where an adapter is a function of them, are those of the live models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from os import PathLike, fspath
from typing import Any

from si_hub import converters
from si_hub.adapter import Adapter, Component
from si_hub.architectures import Architecture, resolve
from si_hub.architectures.known import rank_alike
from si_hub.converters import Conversion, Source
from si_hub.converters.dense import Weights
from si_hub.converters.detect.detection import examine
from si_hub.converters.metadata import named_bases
from si_hub.converters.saved import weights_of
from si_hub.errors import BaseMismatch, SiHubError
from si_hub.pipelines import converted, remembered
from si_hub.pipelines.baseweights import LiveWeights, read_architecture
from si_hub.pipelines.sources import FoundAdapter, Loaded
from si_hub.report.text import reasons
from si_hub.storage.tensors import Computed, Piece, Tensor
from si_hub.words import say_instead

#: Bytes of computed tensors that are kept in memory once computed; where there are more, each use computes them anew.
MOST_KEPT = 2 << 30


def convert_for_pipeline(
    pipeline: Any, found: FoundAdapter, told: bool | str | PathLike[str] = True, *, strict: bool = True
) -> Loaded:
    """A foreign adapter as one of ours for this pipeline.

    Args:
        pipeline: the base model, which nobody changes meanwhile.
        found: where it is.
        told: the name, folder or checkpoint of another base model than the pipeline seems to be; a folder's weights
            are taken too. A bool where it is what it seems.
        strict: whether what does not fit the pipeline, or is not converted, is an error; else it is left out.

    Raises:
        BaseMismatch: it is for another base model, by names and shapes or by what its metadata say.
        SiHubError: as `si_hub.converters.convert_source`.
    """
    live = LiveWeights.of(pipeline)
    with say_instead(base="convert", allow_partial="strict=False"):
        base = read_architecture(pipeline, live) if isinstance(told, bool) else resolve(fspath(told))
        name = converted.name_conversion(found.path, base, given=not isinstance(told, bool))
        folder = converted.find_converted(name)
        if latest := remembered.recall_conversion(found.path, name, folder):
            return Loaded(latest, str(found.path), (_note_of(latest),))
        if folder and (known := converted.read_converted(folder)):
            remembered.remember_conversion(found.path, name, known, folder)
            return Loaded(known, str(found.path), (_note_of(known),))
        # Its header is read after the name is taken: what was found may have been written anew since.
        again = None if found.header is None else remembered.known_header(found.path)
        source = converters.open_source(found.path) if again is None else converters.source_of(again)
        if isinstance(told, bool):
            done = _convert(source, _choose_name(source, pipeline, base), live, strict)
        else:
            done = converters.convert_source(
                source, base=base, weights=weights_of(fspath(told), base) or live, allow_partial=not strict,
                allow_large=True,
            )  # fmt: skip
        kept = converted.keep_converted(done.adapter, folder) if folder and converted.is_worth_keeping(done) else None
        if kept or converted.is_lasting(done):
            remembered.remember_conversion(found.path, name, kept or done.adapter, folder if kept else None)
        return Loaded(kept or keep_computed(done.adapter), str(found.path), _notes(done))


def _choose_name(source: Source, pipeline: Any, own: Architecture) -> Architecture:
    """The pipeline's architecture under the shipped name that it has, where it has one.

    Raises:
        BaseMismatch: the source's metadata name another one.
    """
    alike, said = rank_alike(own), named_bases(source.metadata)
    allowed = [name for name in alike if said.allows(name)]
    if alike and not allowed:
        raise BaseMismatch(
            f"its metadata name another base model than this {type(pipeline).__name__}", file=source.path,
            expected=" or ".join(alike), found=said.quote(),
            hint=f"If it is for this one all the same: convert={alike[0]!r}.",
        )  # fmt: skip
    return replace(own, name=allowed[0]) if allowed else own


def _convert(source: Source, base: Architecture, weights: Weights, strict: bool) -> Conversion:
    try:
        return converters.convert_source(source, base=base, weights=weights, allow_partial=not strict, allow_large=True)
    except BaseMismatch as error:
        others = _fitting(source, base.name)
        fits_partly = any(match.fitting for match in examine(source, base, weights).matches)
        raise BaseMismatch(
            f"{error.problem}; by names and shapes it is for {' or '.join(others)}" if others else error.problem,
            file=source.path, key=error.key, expected=error.expected, found=error.found,
            hint="Load it into a pipeline of the base it is made for." if others
            else "What fits is loaded with strict=False." if fits_partly
            else error.hint,
        ) from error  # fmt: skip


def _fitting(source: Source, name: str) -> list[str]:
    """The shipped base models that a source fits, other than the one that is named."""
    try:
        return [base for base in converters.outline(source).bases if base != name]
    except SiHubError:
        return []


def _notes(found: Conversion) -> tuple[str, ...]:
    lost = len(found.report.lost)
    left_out = (f"left out: {line}" for line in reasons(found.report.dropped)) if lost else ()
    return (_note_of(found.adapter, f"{lost} tensors left out" if lost else "exactly"), *left_out, *found.report.notes)


def _note_of(adapter: Adapter, how: str = "exactly") -> str:
    """What was converted, as the adapter's own document says it."""
    said = adapter.about["provenance"]
    return f"converted in memory, {how}: {said['family']} for {adapter.base_model.architecture} ({said['naming']})"


def keep_computed(adapter: Adapter) -> Adapter:
    """The same adapter with its computed tensors computed, once, unless they are more than `MOST_KEPT`."""
    tensors = converted.list_tensors(adapter)
    if sum(tensor.nbytes for tensor in tensors if converted.is_computed(tensor)) > MOST_KEPT:
        return adapter
    return replace(adapter, components={name: _keep(component) for name, component in adapter.components.items()})


def _keep(component: Component) -> Component:
    # Parts of a fused module follow one another, and are slices of one computation.
    latest: dict[str, tuple[Callable[[], bytes], bytes]] = {}

    def read(leaf: str, piece: Piece) -> bytes:
        if not isinstance(piece, Computed):
            return b"".join(piece.chunks())
        if leaf not in latest or latest[leaf][0] is not piece.make:
            latest[leaf] = piece.make, piece.make()
        return latest[leaf][1][piece.start : piece.start + piece.length]

    def keep(leaf: str, tensor: Tensor) -> Tensor:
        if not converted.is_computed(tensor):
            return tensor
        return Tensor.from_bytes(tensor.dtype, tensor.shape, b"".join(read(leaf, piece) for piece in tensor.pieces))

    layers = {
        path: replace(layer, tensors={leaf: keep(leaf, tensor) for leaf, tensor in layer.tensors.items()})
        for path, layer in component.layers.items()
    }
    return replace(component, layers=layers)
