"""From a recognised source to an `Adapter`: every module by its family's rule, fused ones cut into their parts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from si_hub import __version__
from si_hub.adapter import Adapter, BaseModel, Component
from si_hub.architectures import Architecture, resolve
from si_hub.architectures.checkpoint import DENOISERS
from si_hub.converters import metadata
from si_hub.converters.checking import Check
from si_hub.converters.dense import Weights
from si_hub.converters.detect.detection import Detection, examine
from si_hub.converters.detect.embeddings import place_embeddings
from si_hub.converters.detect.matching import Match, target
from si_hub.converters.families.contract import Lowered, SourceModule
from si_hub.converters.families.scales import config_of, resolve_alpha
from si_hub.converters.families.styleinject_peft import read_branches
from si_hub.converters.layers import LayerTable
from si_hub.converters.numbers import are_equal
from si_hub.converters.origins import Origins
from si_hub.converters.report import Report, Use
from si_hub.converters.saved import subtract_base, weights_of
from si_hub.converters.source import Source, open_source
from si_hub.converters.wayback import alpha_layout, layout, name_naming
from si_hub.errors import AmbiguousFamily, BaseMismatch, ConversionRefused, NotFinite, UnsupportedFamily
from si_hub.words import label, option, switch


@dataclass(slots=True)
class Conversion:
    """A converted adapter and what became of its source.

    Attributes:
        adapter: in memory, tensors still in the source file.
        report: every tensor's fate.
        source: the opened file.
        family: names of the families, most frequent first, joined by ``+``.
        naming: prefixes and layouts the source used.
        base: the base model it was matched against.
        origins: what each layer is by its source's own definition.
    """

    adapter: Adapter
    report: Report
    source: Source
    family: str
    naming: str
    base: Architecture = field(repr=False)
    origins: Origins = field(repr=False)


def convert_source(
    source: str | Path | Source,
    *,
    base: str | Path | Architecture | None = None,
    weights: Weights | None = None,
    allow_partial: bool = False,
    allow_large: bool = False,
    check: bool = False,
    denoiser: str | None = None,
) -> Conversion:
    """Read a foreign adapter as a StyleInject one, exactly.

    Args:
        source: a safetensors file, a PEFT folder, a diffusers LoRA folder, or one of them opened.
        base: name, folder or checkpoint of the base model; found by names and shapes where it is not given.
        weights: of the base model, which some families are functions of; those of ``base`` where it is a folder.
        allow_partial: leave out what does not fit instead of refusing, and name it in the report.
        check: recompute every layer in float64, by the format's formula and by its source's definition.
        denoiser: the component that takes what is for a denoiser, of a base model that has two alike.
        allow_large: convert to more than four times the source's numbers, where that is the exact form.

    Raises:
        UnknownFamily, AmbiguousFamily, UnsupportedFamily, ConversionRefused: what the file is.
        BaseMismatch: the base model has other modules or shapes.
        FormatError: bytes, shapes or values that contradict each other.
        MissingFile, FileAccessError: files that are not there or not readable.
    """
    source = source if isinstance(source, Source) else open_source(source)
    architecture = None if base is None else resolve(base)
    found = examine(source, architecture, weights or weights_of(base, architecture))
    match = found.check(allow_partial=allow_partial)
    if denoiser is not None:
        _steer(source, match, denoiser)
    report = Report(check=Check() if check else None)
    report.drop(found.grouped.dropped, harmless=True)
    report.drop(dict.fromkeys(found.grouped.unknown, "no converter knows what it is"))
    layers, origins = LayerTable(match.architecture, source.path), Origins(found, match)
    left_out = found.left_out(match)
    for stem, module in found.grouped.modules.items():
        if stem in left_out:
            report.drop(dict.fromkeys(module.names.values(), left_out[stem]))
        else:
            _convert_module(source, origins, module, layers, report)
    _check_repeated(source, found, report)
    _embed(source, found, match.architecture, layers.components, report, allow_partial=allow_partial)
    if count := len(layers.without_alpha):
        report.notes.append(f"alpha is 0 in {count} modules, which kohya's trainer reads as the rank")
    if not any(component.layers for component in layers.components.values()):
        raise ConversionRefused("nothing of it has an effect", file=source.path, found="modules of rank 0 only")
    if not allow_large:
        _check_size(source, layers.components)
    if report.check is not None:
        _check_layers(source, layers.components, origins, report.check)
    return _assemble(source, found, match, layers.components, report, origins)


def _steer(source: Source, match: Match, denoiser: str) -> None:
    """Place what is for a denoiser in another one of the base's; BaseMismatch where that has other modules."""
    components = match.architecture.components
    for stem, place in match.places.items():
        if place.component not in DENOISERS:
            continue
        if denoiser not in components or components[denoiser].modules != components[place.component].modules:
            alike = [name for name in DENOISERS if name in components]
            raise BaseMismatch(
                f"{match.architecture.name} has no such denoiser", file=source.path, key=label("denoiser"),
                expected=" or ".join(alike), found=denoiser,
            )  # fmt: skip
        match.places[stem] = replace(place, component=denoiser)


def _convert_module(source: Source, origins: Origins, module: SourceModule, layers: LayerTable, report: Report) -> None:
    family, place = origins.found.families[module.stem], origins.match.places[module.stem]
    rank, whole = family.rank_of(module), target(origins.match.architecture, place)
    module.config = config_of(source.configs, module, place.component)
    if family.rank is not None and rank != 0:
        module.alpha = resolve_alpha(module, place.body, rank)
    own = origins.base_module(module, place)
    if module.whole:
        assert own is not None, "what is saved whole is left out without the base"
        subtract_base(module, whole, own)
    lowered = family.lower_module(module, whole, own)
    if rank == 0:
        _drop_empty_pair(module, lowered, report)
        if not lowered.leaves:
            return
    origins.remember(module)
    added = [layers.add(place.component, part, lowered, module) for part in place.parts]
    if rank and any(added) and "alpha" in module.tensors and module.alpha is None:
        layers.without_alpha.add(module.stem)
    kept = {piece for leaf in lowered.leaves.values() for piece in leaf.pieces} if any(added) else set()
    for slot, name in module.names.items():
        if name not in report.uses:
            report.uses[name] = Use("used" if kept.issuperset(module.tensors[slot].pieces) else "folded")


def _check_layers(source: Source, components: dict[str, Component], origins: Origins, check: Check) -> None:
    """Hold every layer against its source's own definition.

    Raises:
        NotFinite: one of them is no number.
        ConversionRefused: one of them does something else.
    """
    for key in origins:
        component, path = key
        check.add(".".join(key), origins.reached(key, components[component].layers[path]), origins.expected(key))
    if not math.isfinite(check.largest_error):
        raise NotFinite(
            "recomputing it gives no number", file=source.path, key=check.module,
            hint="Training or a download damaged the adapter or the base model.",
        )  # fmt: skip
    if check.largest_error > EXACT:
        raise ConversionRefused(
            "recomputing it gives something else", file=source.path, key=check.module,
            expected=f"a relative error of {EXACT:g} at most", found=f"{check.largest_error:.3g}",
            hint="Its numbers are beyond what float32 holds.",
        )  # fmt: skip


#: The largest relative error that rounding to float32 leaves, and more.
EXACT = 1e-4

#: How many times a source's numbers an exact form may have before it is refused.
LARGE = 4


def _check_size(source: Source, components: dict[str, Component]) -> None:
    """Raise ConversionRefused where the exact form is so much larger than the source that nobody may want it."""
    layers = [layer for component in components.values() for layer in component.layers.values()]
    # A leaf that several parts of a fused module share is written once for each.
    tensors = [tensor for layer in layers for tensor in layer.tensors.values()]
    before, after = sum(tensor.count for tensor in source.tensors.values()), sum(tensor.count for tensor in tensors)
    if after <= LARGE * before:
        return
    size = sum(tensor.nbytes for tensor in tensors)
    raise ConversionRefused(
        f"its exact form has {after / before:.1f} times its numbers", file=source.path,
        expected=f"{LARGE} times at most", found=f"{size / 1e6:,.1f} MB from {source.size / 1e6:,.1f} MB",
        hint=f"Write it all the same with {switch('allow_large')}, or a smaller one, whose error is measured, with "
        f"{option('rank')} or {option('tolerance')}.",
    )  # fmt: skip


#: Slots of a low-rank pair and its scale.
_PAIR = {"down", "up", "mid", "alpha"}


def _drop_empty_pair(module: SourceModule, lowered: Lowered, report: Report) -> None:
    """Leave out a pair of rank 0, which has no effect; a bias beside it stays."""
    # A Kronecker factor is nothing without the pair on its right.
    for leaf in ("down.weight", "core.weight", "up.weight", *(() if "weight_delta" in lowered.leaves else ("kron",))):
        lowered.leaves.pop(leaf, None)
    pair = [name for slot, name in module.names.items() if not lowered.leaves or slot in _PAIR]
    report.drop(dict.fromkeys(pair, "a LoRA of rank 0 has no effect"), harmless=True)


def _check_repeated(source: Source, found: Detection, report: Report) -> None:
    """Tensors that say again what another one said are folded into it, where they say the same.

    Raises:
        AmbiguousFamily: they say something else.
    """
    for stem, slot, name in found.grouped.repeated:
        module = found.grouped.modules[stem]
        first = module.names[slot]
        if not are_equal(source.tensors[name], module.tensors[slot]):
            raise AmbiguousFamily(
                "two tensors of the file mean the same and differ", file=source.path, key=name, found=first,
                hint="Keep one of them.",
            )  # fmt: skip
        use = report.uses[first]
        report.uses[name] = use if use.fate == "dropped" else Use("folded")


def _embed(
    source: Source,
    found: Detection,
    architecture: Architecture,
    components: dict[str, Component],
    report: Report,
    *,
    allow_partial: bool,
) -> None:
    """Textual inversions that ride along, each into the text encoder that it is for."""
    for name, (token, home) in place_embeddings(source, found.grouped, architecture).items():
        tensor = source.tensors[name]
        if home is None and not allow_partial:
            raise UnsupportedFamily(
                "a textual inversion that no text encoder of the base model fits", file=source.path, key=name,
                found=list(tensor.shape),
            )  # fmt: skip
        if home is None:
            report.drop({name: "no text encoder of the base model fits it"})
            continue
        component = components.setdefault(home, Component(architecture.components[home].class_name))
        vectors = tensor if len(tensor.shape) == 2 else tensor.reshape(1, *tensor.shape)
        held = component.embeddings.setdefault(token, vectors)
        if held is not vectors and not are_equal(held, vectors):
            raise AmbiguousFamily(
                "two textual inversions of the file are for one token and text encoder, and differ", file=source.path,
                key=name, found=token, hint="Keep one of them.",
            )  # fmt: skip
        report.uses[name] = Use("used" if held is vectors else "folded")


def _assemble(
    source: Source, found: Detection, match: Match, components: dict[str, Component], report: Report, origins: Origins
) -> Conversion:
    kept, report.left_out = metadata.keep(source.metadata)
    architecture = match.architecture
    naming = name_naming(match)
    prediction = metadata.prediction_type(source.metadata) or architecture.prediction_type
    about = metadata.describe(source.metadata)
    about["provenance"] = {
        **_origin(source),
        "family": found.family(),
        "naming": naming,
        "alpha_layout": alpha_layout(found, match, bool(source.configs)),
        "layout": layout(found, match),
        "tool": f"si-hub {__version__}",
        **({"check": report.check.as_dict()} if report.check else {}),
        **({"exact": True} if not (lost := report.lost) else {"left_out": len(lost)}),
    }
    base = BaseModel(architecture.name, prediction_type=prediction)
    adapter = Adapter(base, components, read_branches(source.configs), about, kept)
    return Conversion(adapter, report, source, found.family(), naming, architecture, origins)


def _origin(source: Source) -> dict[str, Any]:
    """Name and size of the weights, or of each component's."""
    if not source.parts:
        return {"source": {"name": source.path.name, "size": source.size}}
    names = [f"{part.path.parent.name}/{part.path.name}" for part in source.parts]
    return {"sources": [{"name": name, "size": part.size} for name, part in zip(names, source.parts, strict=True)]}
