"""From a recognised source to an `Adapter`: every module by its family's rule, fused ones cut into their parts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from si_hub import __version__
from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.architectures import Architecture, resolve
from si_hub.architectures.layouts import Part
from si_hub.converters import metadata
from si_hub.converters.detect.detection import Detection, detect
from si_hub.converters.detect.matching import target
from si_hub.converters.families.contract import Lowered, SourceModule
from si_hub.converters.families.scales import config_alpha, read_alpha
from si_hub.converters.naming.names import Place
from si_hub.converters.report import Report, Use
from si_hub.converters.source import Source, open_source
from si_hub.converters.wayback import alpha_layout, layout
from si_hub.errors import ConversionRefused, UnsupportedFamily
from si_hub.storage.tensors import Tensor

#: Leaves whose first axis is the output axis: what a fused module is cut along.
_OUTPUT_LEAVES = {"up.weight", "weight_delta", "bias_delta", "gain"}


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
    """

    adapter: Adapter
    report: Report
    source: Source
    family: str
    naming: str
    base: Architecture = field(repr=False)


def convert(
    source: str | Path | Source, *, base: str | Path | Architecture | None = None, allow_partial: bool = False
) -> Conversion:
    """Read a foreign adapter as a StyleInject one, exactly.

    Args:
        source: a safetensors file, a PEFT folder, a diffusers LoRA folder, or one of them opened.
        base: name, folder or checkpoint of the base model; found by names and shapes where it is not given.
        allow_partial: leave out what does not fit instead of refusing, and name it in the report.

    Raises:
        UnknownFamily, AmbiguousFamily, UnsupportedFamily, ConversionRefused: what the file is.
        BaseMismatch: the base model has other modules or shapes.
        FormatError: bytes, shapes or values that contradict each other.
        MissingFile, FileAccessError: files that are not there or not readable.
    """
    source = source if isinstance(source, Source) else open_source(source)
    found = detect(source, None if base is None else resolve(base), allow_partial=allow_partial)
    report = Report()
    report.uses = {name: Use("dropped", reason) for name, reason in found.grouped.dropped.items()}
    components: dict[str, Component] = {}
    for stem, module in found.grouped.modules.items():
        _convert_module(source, found, stem, module, components, report)
    _embed(source, found, components, report, allow_partial=allow_partial)
    zero = sum("alpha" in module.tensors and module.alpha is None for module in found.grouped.modules.values())
    if zero:
        report.notes.append(f"alpha is 0 in {zero} modules, which kohya's trainer reads as the rank")
    if not any(component.layers for component in components.values()):
        raise ConversionRefused("nothing of it has an effect", file=source.path, found="modules of rank 0 only")
    return _assemble(source, found, components, report)


def _convert_module(
    source: Source, found: Detection, stem: str, module: SourceModule, components: dict[str, Component], report: Report
) -> None:
    def drop(reason: str) -> None:
        report.uses.update((name, Use("dropped", reason)) for name in module.names.values())

    place = found.match.places.get(stem)
    if place is None:
        return drop(f"{found.match.architecture.name} has no such module")
    if stem in found.match.misfits:
        return drop(str(found.match.misfits[stem].problem))
    family = found.families[stem]
    if family.rank and not family.rank(module):
        return drop("a LoRA of rank 0 has no effect")
    if family.rank:
        module.alpha = _alpha(source, module, place, family.rank(module))
    assert family.lower is not None
    lowered = family.lower(module, target(found.match.architecture, place))
    for part in place.parts:
        component = components.setdefault(
            place.component, Component(found.match.architecture.components[place.component].class_name)
        )
        component.layers[part.path] = _cut(lowered, part)
    for slot, name in module.names.items():
        report.uses[name] = Use("folded" if slot == "alpha" or slot in lowered.folded else "used")
    return None


def _alpha(source: Source, module: SourceModule, place: Place, rank: int) -> float | None:
    if "alpha" in module.tensors:
        return read_alpha(module)
    config = source.configs.get(place.component, source.configs.get("") if module.spelling == "peft" else None)
    return None if config is None else config_alpha(module, place.body, rank, config)


def _cut(lowered: Lowered, part: Part) -> Layer:
    """The layer of one part: rows of the output-axis leaves, the rest shared."""
    tensors = {
        leaf: _rows(tensor, part) if leaf in _OUTPUT_LEAVES else tensor for leaf, tensor in lowered.leaves.items()
    }
    return Layer(tensors, lowered.alpha, groups=lowered.groups)


def _rows(tensor: Tensor, part: Part) -> Tensor:
    if part.rows is None:
        return tensor
    return Tensor.concatenate([tensor.rows(start, stop) for start, stop in part.rows])


def _embed(
    source: Source, found: Detection, components: dict[str, Component], report: Report, *, allow_partial: bool
) -> None:
    """Textual inversions that ride along: to the text encoder whose embeddings have their width."""
    architecture = found.match.architecture
    for name, (token, kind) in found.grouped.embeddings.items():
        tensor = source.tensors[name]
        home = _encoder(architecture, kind, tensor)
        if home is None and not allow_partial:
            raise UnsupportedFamily(
                "a textual inversion that no text encoder of the base model fits", file=source.path, key=name,
                found=list(tensor.shape),
            )  # fmt: skip
        if home is None:
            report.uses[name] = Use("dropped", "no text encoder of the base model fits it")
            continue
        component = components.setdefault(home, Component(architecture.components[home].class_name))
        component.embeddings[token] = tensor if len(tensor.shape) == 2 else tensor.reshape(1, *tensor.shape)
        report.uses[name] = Use("used")


def _encoder(architecture: Architecture, kind: str, tensor: Tensor) -> str | None:
    chosen = {"clip_l": ("text_encoder",), "clip_g": ("text_encoder_2",), "t5xxl": ("text_encoder_3", "text_encoder_2")}
    for name, model in architecture.components.items():
        tables = (module for module in model.modules.values() if module.kind == "embedding")
        fits = any(table.shape[1:] == tensor.shape[-1:] for table in tables) and len(tensor.shape) in (1, 2)
        if fits and name in chosen.get(kind, (name,)):
            return name
    return None


def _assemble(source: Source, found: Detection, components: dict[str, Component], report: Report) -> Conversion:
    kept, report.left_out = metadata.keep(source.metadata)
    architecture = found.match.architecture
    naming = _naming(found)
    prediction = metadata.prediction_type(source.metadata) or architecture.prediction_type
    about = metadata.describe(source.metadata)
    about["provenance"] = {
        **_origin(source),
        "family": found.family(),
        "naming": naming,
        "alpha_layout": alpha_layout(found, bool(source.configs)),
        "layout": layout(found),
        "tool": f"si-hub {__version__}",
        "exact": True,
    }
    adapter = Adapter(BaseModel(architecture.name, prediction_type=prediction), components, (), about, kept)
    return Conversion(adapter, report, source, found.family(), naming, architecture)


def _origin(source: Source) -> dict[str, Any]:
    """Name and size of the weights, or of each component's."""
    if not source.parts:
        return {"source": {"name": source.path.name, "size": source.size}}
    names = [f"{part.path.parent.name}/{part.path.name}" for part in source.parts]
    return {"sources": [{"name": name, "size": part.size} for name, part in zip(names, source.parts, strict=True)]}


def _naming(found: Detection) -> str:
    """``lora_unet_ sgm, lora_te1_ diffusers``: prefixes and layouts, the most frequent first."""
    counts = Counter(f"{place.prefix} {place.layout}".strip() for place in found.match.places.values())
    return ", ".join(name for name, _ in counts.most_common())
