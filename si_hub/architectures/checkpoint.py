"""A single-file checkpoint as a base model: recognised by its header under the names of any layout."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

from si_hub.architectures.bases import BASES
from si_hub.architectures.folder import from_folder
from si_hub.architectures.layouts import Layout, Names
from si_hub.architectures.model import Architecture, Model, Module
from si_hub.architectures.namings import WHOLE
from si_hub.errors import BaseMismatch
from si_hub.storage.header import read_safetensors

#: Where a checkpoint keeps its denoiser.
DENOISER_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")
#: Modules that releases of one architecture have or lack, of any base: models read off a folder are like the shipped.
OPTIONAL_MODULES = tuple({start for base in BASES for start in base.optional})
#: Modules whose input channels differ between releases.
_INPUTS = frozenset(path for base in BASES for path in base.inputs)
#: Attribute names of the models that remove the noise.
DENOISERS = tuple(dict.fromkeys(name for base in BASES for name in base.denoisers()))


def from_checkpoint(path: str | Path, known: Iterable[Architecture]) -> Architecture:
    """The architecture among ``known`` whose denoiser a safetensors checkpoint holds, with the file's own sizes.

    A file that lies beside a ``config.json`` is read as part of that folder, so any model can be a base there.

    Raises:
        BaseMismatch: the denoiser is of none of them.
        MissingFile, FileAccessError, FormatError: as `si_hub.storage.header.read_safetensors`.
    """
    path, known = Path(path), tuple(known)
    shapes = {name: tensor.shape for name, tensor in read_safetensors(path).tensors.items()}
    if (path.parent / "config.json").is_file():
        return from_folder(path.parent)
    if found := recognise(shapes, known):
        return found
    raise BaseMismatch(
        "is a checkpoint of no known architecture", file=path,
        hint="Save it as a diffusers folder and name that, or name an adapter's base by its architecture.",
    )  # fmt: skip


def recognise(shapes: Mapping[str, tuple[int, ...]], known: Iterable[Architecture]) -> Architecture | None:
    """The architecture among ``known`` whose denoiser the named shapes are, with these shapes' own sizes.

    Where one holds all of another and more, the one with most modules; then the one whose biases are those of the file.
    """
    known = tuple(known)
    for prefix in DENOISER_PREFIXES:
        inner = {name[len(prefix) :]: shape for name, shape in shapes.items() if name.startswith(prefix)}
        if inner and (found := [match for architecture in known if (match := _match(architecture, inner))]):
            return max(found, key=lambda match: match.likeness).architecture
    return None


def whole_tensors(architecture: Architecture, names: Collection[str]) -> dict[str, tuple[str, str]]:
    """Tensor names of a checkpoint → (component, parameter) of the denoiser, where one is the other unchanged.

    Parts of fused tensors are left out; so is everything but the denoiser.
    """
    found: dict[str, tuple[str, str]] = {}
    for component in (name for name in DENOISERS if name in architecture.components):
        model = architecture.components[component]
        for prefix, layout in product(DENOISER_PREFIXES, WHOLE):
            for source, parts in layout(model).items():
                if len(parts) == 1 and parts[0].rows is None:
                    path = parts[0].path
                    for own, leaf in (("weight", "weight"), ("bias", "bias"), ("scale", "weight")):
                        if (name := f"{prefix}{source}.{own}") in names:
                            found.setdefault(name, (component, f"{path}.{leaf}"))
    return found


class _Match(NamedTuple):
    architecture: Architecture
    #: Number of modules, and of modules that have a bias where the file has one.
    likeness: tuple[int, int]


def _match(architecture: Architecture, shapes: Mapping[str, tuple[int, ...]]) -> _Match | None:
    for component in DENOISERS:
        model = architecture.components.get(component)
        for layout in WHOLE if model else ():
            assert model is not None
            if layout.local and (few := _first_names(layout, model)) and _sizes(model, few, shapes) is None:
                continue
            names = layout(model)
            modules = _sizes(model, names, shapes)
            if modules is not None:
                held = {**architecture.components, component: Model(model.class_name, modules)}
                likeness = len(modules), _count_biases(modules, names, shapes)
                return _Match(replace(architecture, components=held), likeness)
    return None


@lru_cache(maxsize=4096)
def _first_names(layout: Layout, model: Model) -> Names:
    """The names of a few modules, each of every kind, in a layout that is local."""
    return layout(_first_of_each(model))


@lru_cache(maxsize=256)
def _first_of_each(model: Model) -> Model:
    """Of modules whose paths differ in numbers alone, the first: enough to tell most models from another."""
    first: dict[str, str] = {}
    for path in model.modules:
        first.setdefault(".".join(part for part in path.split(".") if not part.isdigit()), path)
    return Model(model.class_name, {path: model.modules[path] for path in first.values()})


def _count_biases(modules: Mapping[str, Module], names: Names, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Number of modules that have a bias where the file has one, and none where it has none."""
    held = ((f"{name}.bias" in shapes, modules.get(parts[0].path)) for name, parts in names.items())
    return sum(module is not None and module.bias == has for has, module in held)


def _sizes(model: Model, names: Names, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Module] | None:
    """The model's modules with the checkpoint's sizes, ``None`` if it is another model."""
    if not names:
        return None
    modules = dict(model.modules)
    for name, parts in names.items():
        first = modules[parts[0].path]
        shape = shapes.get(f"{name}.weight", shapes.get(f"{name}.scale", shapes.get(name)))
        expected = (sum(modules[part.path].shape[0] for part in parts), *first.shape[1:])
        if shape is None and name and parts[0].path.startswith(OPTIONAL_MODULES):
            del modules[parts[0].path]
        elif shape is None or not is_alike(parts[0].path, shape, expected):
            return None
        elif shape != expected:
            modules[parts[0].path] = replace(first, shape=shape)
    return modules


def is_alike(path: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Equal, or different in the input channels of the first layer only."""
    if path in _INPUTS and len(shape) == len(expected) and len(shape) > 1:
        return (shape[0], *shape[2:]) == (expected[0], *expected[2:])
    return shape == expected
