"""A source's tensors put together by module, and every module given its family; by names alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from si_hub.converters.families.contract import Family, SourceModule
from si_hub.converters.families.peft_kinds import SHARED_SLOTS
from si_hub.converters.families.registry import FAMILIES, PLAIN, SUFFIXES, classify, nearest, rejection
from si_hub.converters.naming.names import read_stem
from si_hub.converters.naming.numbered import read_numbered
from si_hub.converters.naming.suffixes import Key
from si_hub.converters.saved import split_saved
from si_hub.converters.source import Source
from si_hub.errors import AmbiguousFamily, NotAnAdapter, UnknownFamily, UnsupportedFamily
from si_hub.words import option

#: Tensors that ride along and are no module of the base: a pattern, and why they are dropped.
_DROPS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"_aux\."), "a slider's training aid, not part of the adapter"),
)
_BUNDLE = re.compile(r"bundle_emb\.(?P<token>.+)\.(?P<kind>string_to_param\.[^.]+|clip_l|clip_g|t5xxl)")
#: cloneofsimo's textual inversions, beside numbered layers.
_TOKEN = re.compile(r"<[^<>.:]+>")
#: What stands beside a quantised weight: its scales, and how it is stored.
_QUANTISED = re.compile(
    r"(?:\.(?:weight|input)_scale(?:_2)?|\.scale_(?:weight|input)|\.comfy_quant|(?:^|\.)scaled_fp8)$"
)
#: Metadata by which an expert's gate has its mean taken out, or is 0 at some timesteps.
_GATES = ("ss_ortho_centered_gate", "ss_specialize_experts_by_sigma_buckets")
#: What PEFT's ``modules_to_save`` and ``bias`` leave in a file.
SAVED_WHOLE = "whole weights, saved by PEFT's modules_to_save or bias, not differences"
#: Why a function of the base's weights is not converted without them.
WITHOUT_BASE = "a function of the base model's own weights, which are needed to convert it"
#: Names shown in a message.
SHOWN = 3


@dataclass(slots=True)
class Grouped:
    """A source taken apart by names.

    Attributes:
        modules: by stem, in the source's order; a stem that is flat is flat throughout.
        repeated: (stem, slot, name) of tensors that mean the same as one before them.
        embeddings: tensor name → (token, kind) of textual inversions.
        dropped: tensor name → why.
        unknown: names that nothing explains.
    """

    modules: dict[str, SourceModule] = field(default_factory=dict)
    repeated: list[tuple[str, str, str]] = field(default_factory=list)
    embeddings: dict[str, tuple[str, str]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


def group(source: Source) -> Grouped:
    """Put the tensors that belong together in one module each, by the longest known suffix of their names."""
    numbered = read_numbered(source.tensors, source.metadata, source.path)
    tokens = [name for name in source.tensors if numbered and _TOKEN.fullmatch(name)]
    if found := rejection(name for name in source.tensors if name not in numbered and name not in tokens):
        reject, first = found
        raise NotAnAdapter(reject.name, file=source.path, key=first, hint=reject.hint() or None)
    split = {name: SUFFIXES.split(name) for name in source.tensors}
    plain = (name for name, key in split.items() if key is None or key.slot in PLAIN)
    saved = {name: key for name in plain if (key := split_saved(name, source.configs))}
    split |= saved | numbered
    _check_one_adapter(source, split)
    grouped = Grouped()
    stems: dict[str, str] = {}
    for name, key in split.items():
        bundle = _BUNDLE.fullmatch(name)
        drop = next((reason for pattern, reason in _DROPS if pattern.match(name)), None)
        if name in tokens:
            grouped.embeddings[name] = (name, "")
        elif bundle:
            grouped.embeddings[name] = (bundle["token"], bundle["kind"])
        elif drop is not None:
            grouped.dropped[name] = drop
        elif key is None:
            grouped.unknown.append(name)
        else:
            _add(source, grouped, name, key, stems, whole=name in saved)
    _share(grouped)
    return grouped


def _share(grouped: Grouped) -> None:
    """Give what PEFT's modules share, saved once beside them under ``base_model``, to each of them."""
    for stem, module in list(grouped.modules.items()):
        if not f".{stem}".endswith(".base_model") or not SHARED_SLOTS.keys() >= module.tensors.keys():
            continue
        del grouped.modules[stem]
        for slot, tensor in module.tensors.items():
            sharing = [one for one in grouped.modules.values() if one.stem.startswith(f"{stem}.")
                       and SHARED_SLOTS[slot] & one.tensors.keys()]  # fmt: skip
            for one in sharing:
                if slot in one.tensors:
                    grouped.repeated.append((one.stem, slot, module.names[slot]))
                else:
                    one.tensors[slot], one.names[slot] = tensor, module.names[slot]
            if not sharing:
                grouped.unknown.append(module.names[slot])


def _add(source: Source, grouped: Grouped, name: str, key: Key, stems: dict[str, str], *, whole: bool) -> None:
    """Put one tensor into its module. Dots in a flat stem are underscores: they are one module under two spellings."""
    if key.stem not in stems:
        reading = read_stem(key.stem)
        stem = stems[key.stem] = reading.prefix + reading.body.replace(".", "_") if reading.flat else key.stem
        grouped.modules.setdefault(stem, SourceModule(stem, source.path, read_stem(stem), spelling=key.spelling))
    module = grouped.modules[stems[key.stem]]
    if key.slot in module.tensors:
        grouped.repeated.append((module.stem, key.slot, name))
    else:
        module.tensors[key.slot], module.names[key.slot] = source.tensors[name], name
        module.whole |= {key.slot} if whole else set()


def _check_one_adapter(source: Source, split: Mapping[str, Key | None]) -> None:
    """PEFT's in-memory names can hold several adapters; a file of ours is one."""
    named = {key.adapter: name for name, key in split.items() if key and key.adapter}
    if len(named) > 1:
        raise AmbiguousFamily(
            "the file holds several PEFT adapters", file=source.path, key=list(named.values())[1],
            found=", ".join(named), hint="Save one adapter a file.",
        )  # fmt: skip


def classify_modules(source: Source, grouped: Grouped) -> dict[str, Family]:
    """The family of every module, converted or not; the tensors of a module that is of none are unknown.

    Raises:
        NotAnAdapter: a textual inversion alone.
        UnknownFamily: no module is of a known family.
    """
    families: dict[str, Family] = {}
    for stem, module in list(grouped.modules.items()):
        family = classify(module.tensors)
        if family is None:
            grouped.unknown.extend(module.names.values())
            grouped.unknown.extend(name for repeated, _, name in grouped.repeated if repeated == stem)
            del grouped.modules[stem]
        else:
            families[stem] = family
    if not families and grouped.embeddings and not grouped.unknown:
        raise NotAnAdapter(
            "a textual inversion alone", file=source.path, key=next(iter(grouped.embeddings)),
            hint="Load it with load_textual_inversion.",
        )  # fmt: skip
    if not families:
        raise unknown_tensors(source, grouped)
    grouped.repeated = [entry for entry in grouped.repeated if entry[0] in families]
    return families


def refusal(source: Source, families: Mapping[str, Family]) -> UnsupportedFamily | None:
    """The error for the modules of families that are not converted, each with its own reason."""
    refused = {stem: family for stem, family in families.items() if not family.is_converted}
    if not refused:
        return None
    counts = Counter((family.title, family.reason) for family in refused.values())
    said = (f"is {title} ({count} of {len(families)} modules): {reason}" for (title, reason), count in counts.items())
    return UnsupportedFamily("; ".join(said), file=source.path, key=next(iter(refused)))


def lacking_weights(source: Source, families: Mapping[str, Family], stems: list[str]) -> UnsupportedFamily:
    """The error for modules that are functions of the base's weights, where none are given."""
    counts = Counter(families[stem].title for stem in stems)
    said = ", ".join(f"{title} ({count} of {len(families)} modules)" for title, count in counts.items())
    return UnsupportedFamily(
        f"is {said}: {WITHOUT_BASE}", file=source.path, key=stems[0],
        hint=f"Name the base model, a folder, checkpoint or cached repository: {option('base', 'FOLDER')}.",
    )  # fmt: skip


def quantised(source: Source) -> UnsupportedFamily | None:
    """The error for tensors that stand beside quantised ones: without their scales the others are other numbers."""
    found = [name for name in source.tensors if _QUANTISED.search(name)]
    if not found:
        return None
    return UnsupportedFamily(
        "is quantised, with scales beside its weights, which are not read", file=source.path, key=found[0],
        found=f"{len(found)} such tensors", hint="Take the file that it was made of.",
    )  # fmt: skip


def unusual_gates(source: Source) -> UnsupportedFamily | None:
    """The error for a LoRA of several experts whose header says that their gates are more than a softmax."""
    said = [name for name in _GATES if source.metadata.get(name, "").lower() == "true"]
    first = next((name for name in source.tensors if ".lora_ups." in name), None)
    if not said or first is None:
        return None
    return UnsupportedFamily(
        "is a LoRA of several experts whose gates are no plain softmax", file=source.path, key=first,
        expected="gates that add up to 1 and do not depend on the timestep", found=", ".join(said),
    )  # fmt: skip


def saved_whole(source: Source, grouped: Grouped) -> UnsupportedFamily | None:
    """The error for what PEFT saved whole, where no weights of a base are given to subtract."""
    names = [module.names[slot] for module in grouped.modules.values() for slot in module.whole]
    if not names:
        return None
    return UnsupportedFamily(
        f"{len(names)} of {len(source.tensors)} tensors are {SAVED_WHOLE}", file=source.path, key=min(names),
        hint=f"Name the base model's folder, whose weights they replace: {option('base', 'FOLDER')}.",
    )  # fmt: skip


def unknown_tensors(source: Source, grouped: Grouped) -> UnknownFamily:
    """The error for tensors that nothing explains."""
    if not source.tensors:
        return UnknownFamily("holds no tensors", file=source.path)
    shown = ", ".join(grouped.unknown[:SHOWN])
    slots = _slots_of(grouped.unknown)
    family, objection = nearest(slots)
    close = f"; nearest is {family.title}, but a module {objection}" if slots else ""
    return UnknownFamily(
        f"{len(grouped.unknown)} of {len(source.tensors)} tensors are of no known family{close}",
        file=source.path, key=grouped.unknown[0] if grouped.unknown else None, found=shown or None,
        hint=f"Known families: {', '.join(family.name for family in FAMILIES)}.",
    )  # fmt: skip


def _slots_of(names: list[str]) -> set[str]:
    """Slots of the module that the first explicable name belongs to; none where a whole model's names are like that."""
    split = [key for name in names if (key := SUFFIXES.split(name))]
    slots = {key.slot for key in split if key.stem == split[0].stem}
    return slots if slots - PLAIN else set()
