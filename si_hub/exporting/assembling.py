"""The files of a format: every layer under its name there, in the format's own kind, with what the header says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from si_hub.adapter import Adapter, Component, Layer
from si_hub.architectures import Architecture
from si_hub.architectures.bases import BY_NAME
from si_hub.architectures.checkpoint import DENOISERS
from si_hub.architectures.layouts import Part
from si_hub.architectures.model import Module
from si_hub.converters.dense import BaseModule, Weights
from si_hub.errors import ConversionRefused, UnsupportedFamily
from si_hub.exporting.files import ExportFile, place_output
from si_hub.exporting.formats import FileFormat
from si_hub.exporting.headers import configure_folder, describe_file, diffusers_metadata, peft_config
from si_hub.exporting.joining import join_layers, slice_module
from si_hub.exporting.magnitude import measure_magnitude, raise_magnitude
from si_hub.exporting.pairs import carry_bias, fill_biases
from si_hub.exporting.placing import place_layers
from si_hub.exporting.spelling import folds_exactly, name_tensors, spell_layer, unfold_scale
from si_hub.exporting.turning import spell_rotation, spell_scale
from si_hub.storage.tensors import Tensor
from si_hub.words import option

#: How files for the first and the second of two denoisers are called.
_NOISES = ("high_noise", "low_noise")
#: Why the base model's numbers are needed.
_MAGNITUDES = "is DoRA, whose magnitudes are a function of the base model's weights"
_BESIDE = "is beside DoRA, and gets magnitudes there too, which are a function of the base model's weights"
_BIASES = "leaves the base model's biases as they are, which are needed"


@dataclass(frozen=True, slots=True)
class ExportJob:
    """What is exported, to what.

    Attributes:
        adapter: of one branch, with the transform ``add``.
        architecture: its base model.
        weights: the base's numbers, where they are known.
        target: the format.
        source: for messages.
    """

    adapter: Adapter
    architecture: Architecture
    weights: Weights | None
    target: FileFormat
    source: Path


def spell_files(job: ExportJob, output: str | Path | None) -> tuple[list[ExportFile], list[str]]:
    """The files of a format, and what there is to say of them.

    Raises:
        ConversionRefused: the format cannot say what the adapter does.
        UnsupportedFamily: the base's numbers are needed, and not there.
    """
    notes: list[str] = []
    target = job.target
    configured = target.alpha == "configuration"
    path = place_output(job.source, output, target.name, folder=configured)
    files: dict[Path, ExportFile] = {}
    for name, component in job.adapter.components.items():
        home = _find_home(job, name, path)
        file = files.setdefault(home, ExportFile(home))
        _spell_component(job, name, component, file)
    if len(files) > 1 and not configured:
        notes.append("its two denoisers have a file each, the first for high noise and the second for low noise")
    for file in files.values():
        _describe(job, file, notes)
    return list(files.values()), list(dict.fromkeys(notes))


def _find_home(job: ExportJob, name: str, path: Path) -> Path:
    """The file that a component goes into: of two denoisers each has its own."""
    names = job.adapter.components
    if job.target.alpha == "configuration":
        return path / name if len(names) > 1 else path
    if len(taken := [one for one in DENOISERS if one in names]) < 2 or _is_shared(job, taken):
        return path
    noise = _NOISES[name == taken[1]]
    return path.with_name(f"{path.name.removesuffix('.safetensors')}.{noise}.safetensors")


def _is_shared(job: ExportJob, denoisers: list[str]) -> bool:
    """Whether these are no denoisers that take turns, and have names of their own in one file."""
    models = [job.architecture.components[name] for name in denoisers]
    return models[0].class_name != models[1].class_name


def _spell_component(job: ExportJob, name: str, component: Component, file: ExportFile) -> None:
    target, model = job.target, job.architecture.components[name]
    if component.embeddings:
        raise ConversionRefused(
            f"{target.title} carries no textual inversions", key=f"{name}.{next(iter(component.embeddings))}",
            hint="Split them off first.",
        )  # fmt: skip
    prefix = target.prefix(job.architecture.name, _role_of(job, name))
    layouts = target.layouts(job.architecture.name, name, model.class_name)
    spelled: dict[str, dict[str, Tensor]] = {}
    places: dict[str, tuple[str, tuple[Part, ...], Layer]] = {}
    for stem, parts in place_layers(component.layers, model, layouts, target.title).items():
        slices, shape = slice_module(parts, model.modules, component.layers)
        key, first = f"{name}.{parts[0].path}", model.modules[parts[0].path]
        layer = target.without_lost_core(join_layers(stem, slices, shape))
        layer, slots = _spell_module(job, key, parts, layer, Module(first.kind, shape, first.bias))
        body = prefix + (stem.replace(".", "_") if prefix.endswith("_") else stem)
        spelled[body], places[body] = slots, (key, parts, layer)
        file.stems[f"{name}.{stem}"] = body
        file.layers[f"{name}.{stem}"] = layer
    if target.is_pefts:
        if any("magnitude" in slots for slots in spelled.values()):
            _fill_magnitudes(job, spelled, places)
        fill_biases(spelled)
    for body, slots in spelled.items():
        file.tensors |= name_tensors(body, slots, target.suffixes)


def _fill_magnitudes(
    job: ExportJob, spelled: dict[str, dict[str, Tensor]], places: dict[str, tuple[str, tuple[Part, ...], Layer]]
) -> None:
    """Give every pair a magnitude in PEFT's shape, one that changes nothing where it had none: ``use_dora`` is of all.

    Raises:
        ConversionRefused: one of them has a bias, which PEFT's DoRA has not.
    """
    for body, slots in spelled.items():
        key, parts, layer = places[body]
        if "up_bias" in slots:
            raise ConversionRefused(
                f"{job.target.title} has no biases beside DoRA", key=key, hint="Choose another format."
            )
        if "magnitude" not in slots:
            slots["magnitude"] = measure_magnitude(layer, _need(job, key, parts, _BESIDE))
        magnitude = slots["magnitude"]
        # Of a linear layer a vector, of a convolution along the channels' axis.
        ones = (1,) * (len(magnitude.shape) - 2)
        slots["magnitude"] = magnitude.reshape(*((1, magnitude.count, *ones) if ones else (magnitude.count,)))


def _role_of(job: ExportJob, name: str) -> str:
    """A component as the format names it: a file is for one denoiser, whichever of two that take turns it is."""
    known = BY_NAME.get(job.architecture.name)
    denoisers = [] if known is None else list(known.denoisers())
    second = len(denoisers) > 1 and name == denoisers[1] and _is_file(job) and not _is_shared(job, denoisers[:2])
    return denoisers[0] if second else name


def _is_file(job: ExportJob) -> bool:
    return job.target.alpha != "configuration"


def _spell_module(
    job: ExportJob, key: str, parts: tuple[Part, ...], layer: Layer, module: Module
) -> tuple[Layer, dict[str, Tensor]]:
    """A layer as it is written, and its tensors by slot."""
    target, axes = job.target, len(module.shape)
    kind = target.kind_of(layer)
    extra: dict[str, Tensor] = {}
    if kind is None and "up_bias" in target.suffixes and module.kind in {"linear", "conv"}:
        layer = carry_bias(layer, module.shape)
    if kind == "magnitude":
        layer, magnitude = raise_magnitude(key, layer, _need(job, key, parts, _MAGNITUDES), module.bias)
        extra = {"magnitude": magnitude}
    elif kind is not None:
        spell = spell_rotation if kind == "oft_blocks" else spell_scale
        acts_on_bias = module.bias and "gain_in" not in layer.tensors
        own = _need(job, key, parts, _BIASES) if acts_on_bias else None
        return layer, spell(key, layer, own, module.bias, axes)
    return layer, spell_layer(key, layer, module.kind, axes, target) | extra


def _need(job: ExportJob, key: str, parts: tuple[Part, ...], why: str) -> BaseModule:
    """The base's numbers of a module; UnsupportedFamily where they are not known."""
    name, _, path = key.partition(".")
    if job.weights is None:
        raise UnsupportedFamily(
            why, file=job.source, key=key,
            hint=f"Name the base model's folder or checkpoint: {option('base', 'FOLDER')}.",
        )  # fmt: skip
    return BaseModule(job.weights, name, parts, job.architecture.components[name].modules, job.source, path)


def _describe(job: ExportJob, file: ExportFile, notes: list[str]) -> None:
    """Metadata and configuration of one file."""
    by_component = file.layers_by_component()
    ends = job.target.suffixes
    whole = {
        setting: any(name.endswith(ends.get(slot, "\0")) for name in file.tensors)
        for setting, slot in (("lora_bias", "up_bias"), ("use_dora", "magnitude"))
    }
    if job.target.alpha == "configuration":
        (only,) = by_component.values()
        _unfold(job, file)
        file.metadata = {"format": "pt"}
        file.config = configure_folder(job.adapter, only, whole)
        return
    said = describe_file(job.adapter, list(file.layers.values()))
    extra: dict[str, str] = {}
    if job.target.alpha == "folded" and not all(map(_is_folded, file.layers.values())):
        # Rounded scales would change the numbers: what diffusers itself writes says them instead.
        _unfold(job, file)
        # diffusers calls the one denoiser that a file is for by the first one's name.
        configs = {_role_of(job, name): peft_config(held, whole) for name, held in by_component.items()}
        extra = diffusers_metadata(configs)
        notes.append("its scales are in lora_adapter_metadata, which diffusers reads from version 0.34 on")
    file.metadata = lambda digests: {**said(digests), **extra}


def _is_folded(layer: Layer) -> bool:
    return layer.scale == 1 or folds_exactly(layer)


def _unfold(job: ExportJob, file: ExportFile) -> None:
    """``up`` as it is, without its scale; and a bias that the scale makes what it is."""
    suffixes = job.target.suffixes
    for key, layer in file.layers.items():
        up, bias = (f"{file.stems[key]}{suffixes[slot]}" for slot in ("up", "up_bias"))
        if layer.rank:
            file.tensors[up] = layer.tensors["up.weight"].reshape(*file.tensors[up].shape)
        if bias in file.tensors and layer.scale != 1:
            file.tensors[bias] = unfold_scale(file.tensors[bias], layer.scale)
