"""Adapters of every shipped base, whole and in parts, under each of its namings: never taken for another base's."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import pytest

from si_hub import architectures
from si_hub.architectures.bases import BASES, Base, find_named
from si_hub.architectures.layouts import Layout, diffusers
from si_hub.architectures.model import Model
from si_hub.converters import open_source
from si_hub.converters.detect.detection import Detection, examine
from si_hub.converters.naming.names import PREFIXES
from si_hub.errors import AmbiguousFamily, BaseMismatch

Shapes = dict[str, tuple[int, ...]]
Write = Callable[[Shapes, Mapping[str, str]], Detection]

NAMINGS = [(base, layout) for base in BASES for layout in (*base.layouts, diffusers)]
every_naming = pytest.mark.parametrize(("base", "layout"), NAMINGS, ids=lambda value: value.name)
every_base = pytest.mark.parametrize("base", BASES, ids=lambda base: base.name)
SUBSETS = 10
_BLOCK = re.compile(r"\.(\d+)\.")


def name_modules(model: Model, layout: Layout) -> Shapes:
    """What an adapter may hold of a model: name → the shape of the weight, of several that are fused the sum."""
    found: Shapes = {}
    for name, parts in layout(model).items():
        held = [model.modules[part.path] for part in parts]
        if held[0].kind == "linear" or (held[0].kind == "conv" and len(held[0].shape) == 4):
            found[name] = (sum(module.shape[0] for module in held), *held[0].shape[1:])
    return found


def list_denoiser(base: Base, layout: Layout) -> tuple[str, Shapes]:
    """The first denoiser of a base: its attribute, and all that an adapter may hold of it."""
    attribute = next(iter(base.denoisers()))
    return attribute, name_modules(architectures.load(base.name).components[attribute], layout)


def write_names(shapes: Shapes, prefix: str) -> Shapes:
    """With dots or, after a prefix that ends in an underscore, without."""
    flat = prefix.endswith("_")
    return {prefix + (name.replace(".", "_") if flat else name): shape for name, shape in shapes.items()}


def prefixes(attribute: str, layout: Layout) -> list[str]:
    """Of diffusers' and PEFT's names, or of trainers' with native ones; one with dots, one with underscores."""
    known = {prefix.text for prefix in PREFIXES if attribute in prefix.components}
    wanted = [f"{attribute}.", f"lora_{attribute}_"] if layout is diffusers else ["diffusion_model.", "lora_unet_"]
    return [prefix for prefix in wanted if prefix in known]


def subsets(shapes: Shapes, seed: str) -> Iterable[Shapes]:
    """What people train of a model: single layers, single blocks, attention alone, one kind of layer, anything."""
    chance = random.Random(seed)
    names = list(shapes)
    attention = [name for name in names if "attn" in name or "attention" in name]
    block = chance.choice(_BLOCK.findall(".".join(["x.0.", *names])))
    kind = chance.choice(names).rpartition(".")[2]
    picks: list[Collection[str]] = [
        [chance.choice(names)], [chance.choice(names)],
        attention, [name for name in attention if chance.random() < 0.1],
        [name for name in names if f".{block}." in name],
        [name for name in names if ".0." in name],
        [name for name in names if name.endswith(kind)],
        *(chance.sample(names, min(len(names), chance.randint(2, 40))) for _ in range(3)),
    ]  # fmt: skip
    assert len(picks) == SUBSETS
    return [{name: shapes[name] for name in pick or names[:1]} for pick in picks]


@pytest.fixture
def look(tmp_path: Path, write_zeros: Callable[..., Path]) -> Write:
    """What an adapter with these modules is found to be."""

    def write(shapes: Shapes, metadata: Mapping[str, str] | None = None) -> Detection:
        entries = {}
        for stem, (out, in_, *kernel) in shapes.items():
            entries[f"{stem}.lora_down.weight"] = ("F16", (2, in_, *kernel))
            entries[f"{stem}.lora_up.weight"] = ("F16", (out, 2, *(1 for _ in kernel)))
        return examine(open_source(write_zeros(tmp_path / "lora.safetensors", entries, metadata or {})))

    return write


def assert_its_own(found: Detection, base: Base, shapes: Shapes) -> None:
    """The base, or one of several between which the file leaves a choice."""
    names = [match.architecture.name for match in found.matches]
    assert base.name in names, (names, list(shapes)[:5], len(shapes))
    errors = [type(objection.error) for objection in found.objections]
    assert errors == ([] if len(names) == 1 else [AmbiguousFamily])


@every_naming
def test_the_whole_denoiser_is_of_its_base_or_ambiguous(base: Base, layout: Layout, look: Write) -> None:
    attribute, shapes = list_denoiser(base, layout)
    for prefix in prefixes(attribute, layout):
        named = write_names(shapes, prefix)
        assert_its_own(look(named, {}), base, named)


@every_base
def test_denoiser_and_text_encoders_are_of_their_base_or_ambiguous(base: Base, look: Write) -> None:
    named: Shapes = {}
    for attribute, model in architectures.load(base.name).components.items():
        named |= write_names(name_modules(model, diffusers), f"{attribute}.")
    assert_its_own(look(named, {}), base, named)


@every_naming
def test_any_part_of_the_denoiser_is_of_its_base_or_ambiguous(base: Base, layout: Layout, look: Write) -> None:
    attribute, shapes = list_denoiser(base, layout)
    ways = prefixes(attribute, layout)
    for number, part in enumerate(subsets(shapes, f"{base.name} {layout.name}") if ways else ()):
        named = write_names(part, ways[number % len(ways)])
        assert_its_own(look(named, {}), base, named)


@every_naming
def test_metadata_of_another_base_are_an_error_that_shows_both(base: Base, layout: Layout, look: Write) -> None:
    attribute, shapes = list_denoiser(base, layout)
    for prefix in prefixes(attribute, layout)[:1]:
        named = write_names(shapes, prefix)
        possible = {match.architecture.name for match in look(named, {}).matches}
        chance = random.Random(f"{base.name} {layout.name}")
        for other in chance.sample(BASES, 2):
            hint = other.hints[0].rstrip("$")
            if possible.intersection(named_base.name for named_base in find_named(hint)):
                continue
            found = look(named, {"ss_base_model_version": hint})
            if found.matches:
                # It has all of these modules, and more that nothing here is for.
                assert all(match.fitting == len(named) for match in found.matches)
                continue
            error = found.objections[0].error
            assert isinstance(error, BaseMismatch)
            assert "metadata name another base model" in error.problem
            assert hint in str(error.found)
            assert possible.issubset(str(error.expected).partition(", by names")[0].split(", "))
