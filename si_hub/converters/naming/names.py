"""The start and the middle of a tensor's name: container, prefix, and the module it means in a base model."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from si_hub.architectures import Architecture, Model
from si_hub.architectures.bases import BASES
from si_hub.architectures.layouts import Part
from si_hub.architectures.namings import LAYOUTS
from si_hub.architectures.sketch import sketch_name

_CONTAINER = "base_model.model."


@dataclass(frozen=True, slots=True)
class Prefix:
    """The start of a module's name: which components it can mean, first choice first, and how names are written.

    Attributes:
        text: the prefix itself.
        components: pipeline attribute names.
        flat: dots of the module's path are written as underscores.
    """

    text: str
    components: tuple[str, ...]
    flat: bool


_DENOISER = ("unet", "transformer", "prior")
_COMFY = ("text_encoders.", "")

#: What the beginning of a name means unless a base model says otherwise.
_GENERAL: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("lora_unet_", "oft_unet_", "lora_unet__", "lora_transformer_", "lycoris_"), _DENOISER),
    "lora_prior_unet_": ("prior",),
    **{f"{kind}_te{number}_": ("text_encoder",) for kind in ("lora", "oft") for number in ("", "1")},
    **{f"{kind}_te{number}_": (f"text_encoder_{number}",) for kind in ("lora", "oft") for number in (2, 3)},
    **{f"{name}.": (name,) for name in (*_DENOISER, "text_encoder", "text_encoder_2", "text_encoder_3")},
    **dict.fromkeys(("diffusion_model.", "model.diffusion_model."), _DENOISER),
    "cond_stage_model.transformer.": ("text_encoder",),
    "conditioner.embedders.0.transformer.": ("text_encoder",),
    **{f"{start}clip_l.transformer.": ("text_encoder",) for start in _COMFY},
    **{f"{start}clip_g.transformer.": ("text_encoder_2",) for start in _COMFY},
    **{f"{start}t5xxl.transformer.": ("text_encoder_3",) for start in _COMFY},
}


def _prefixes() -> tuple[Prefix, ...]:
    meanings = dict(_GENERAL)
    for base in BASES:
        for text, component in base.prefixes.items():
            meanings[text] = tuple(dict.fromkeys((*meanings.get(text, ()), component)))
    prefixes = (Prefix(text, components, text.endswith("_")) for text, components in meanings.items())
    return tuple(sorted(prefixes, key=lambda prefix: -len(prefix.text)))


#: Longest first; a name without any of them belongs to the component that all such names fit.
PREFIXES: tuple[Prefix, ...] = _prefixes()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a source module belongs: the component, its parts there, and how the source wrote it.

    Attributes:
        component: pipeline attribute name.
        parts: the base modules, several for a fused one.
        prefix: as the source has it, the container included.
        body: the rest of the source's module name.
        layout: the naming that knew it, a key of `LAYOUTS`.
    """

    component: str
    parts: tuple[Part, ...]
    prefix: str
    body: str
    layout: str


class Reading(NamedTuple):
    """A source module's name without its prefix.

    Attributes:
        prefix: as the source has it, the container included.
        body: the rest.
        components: that the prefix can mean; none for a bare name.
        flat: dots are written as underscores.
    """

    prefix: str
    body: str
    components: tuple[str, ...]
    flat: bool


_BY_TEXT = {prefix.text: prefix for prefix in PREFIXES}
_START = re.compile(f"({re.escape(_CONTAINER)})?({'|'.join(map(re.escape, _BY_TEXT))})?({re.escape(_CONTAINER)})?")


def read_stem(stem: str) -> Reading:
    """Cut the longest known prefix off a source module's name, and PEFT's container with it."""
    match = _START.match(stem)
    assert match is not None
    prefix = _BY_TEXT.get(match[2] or "", Prefix("", (), False))
    return Reading(stem[: match.end()], stem[match.end() :], prefix.components, prefix.flat)


@cache
def _index(model: Model, flat: bool) -> dict[str, tuple[str, tuple[Part, ...]]]:
    """The names that any layout gives a model's modules, with the first layout that does, and what they stand for."""
    index: dict[str, tuple[str, tuple[Part, ...]]] = {}
    for layout in LAYOUTS.values():
        for name, parts in layout(model).items():
            index.setdefault(name.replace(".", "_") if flat else name, (layout.name, parts))
    return index


def locate(reading: Reading, architecture: Architecture, bare: tuple[str, ...]) -> Place | None:
    """Look a source module's name up in the base's own module lists.

    Args:
        bare: components to try for a name without a prefix.
    """
    for component in reading.components or bare:
        if (model := architecture.components.get(component)) is None:
            continue
        index = _index(model, reading.flat)
        # Some of kohya's trainers flatten an empty last part too: `proj_out_`.
        found = index.get(reading.body) or (index.get(reading.body.rstrip("_")) if reading.flat else None)
        if found is not None:
            layout, parts = found
            return Place(component, parts, reading.prefix, reading.body, layout)
    return None


@cache
def count_alike(model: Model, layout: str) -> Counter[str]:
    """How many modules of a model have each sketch (`si_hub.architectures.sketch`) of a name in a layout."""
    return Counter(map(sketch_name, LAYOUTS[layout](model)))


def names_in(architecture: Architecture) -> list[str]:
    """Every name that a base model's modules have, with dots and with underscores."""
    models = architecture.components.values()
    return list(dict.fromkeys(name for model in models for flat in (False, True) for name in _index(model, flat)))
