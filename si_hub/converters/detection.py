"""What a foreign adapter is: its modules, their families, and the base model whose modules they are.

Names, shapes and metadata decide; the only data read are the scalars of the alphas.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from si_hub import architectures
from si_hub.architectures import Architecture
from si_hub.converters import header, keys
from si_hub.converters.modules import SourceModule, Target
from si_hub.converters.registry import FAMILIES, Family, classify, nearest, rejection
from si_hub.converters.source import Source
from si_hub.errors import (
    AmbiguousFamily,
    BaseMismatch,
    SiHubError,
    UnknownFamily,
    UnsupportedFamily,
)

#: Tensors that ride along and are no module of the base: a pattern, and why they are dropped.
_DROPS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"_aux\."), "a slider's training aid, not part of the adapter"),
)
_BUNDLE = re.compile(r"bundle_emb\.(?P<token>.+)\.(?P<kind>string_to_param\.[^.]+|clip_l|clip_g|t5xxl)")
_SHOWN = 3


@dataclass(slots=True)
class Grouped:
    """A source taken apart by names.

    Attributes:
        modules: by stem, in the source's order.
        embeddings: tensor name → (token, kind) of textual inversions.
        dropped: tensor name → why.
        unknown: names that nothing explains.
    """

    modules: dict[str, SourceModule] = field(default_factory=dict)
    embeddings: dict[str, tuple[str, str]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Match:
    """How a source's modules fit one base model.

    Attributes:
        architecture: the base.
        places: by stem, for the modules whose names it has.
        misfits: by stem, for those whose shapes it has not.
        strangers: stems it has no module for.
    """

    architecture: Architecture
    places: dict[str, keys.Place] = field(default_factory=dict)
    misfits: dict[str, SiHubError] = field(default_factory=dict)
    strangers: list[str] = field(default_factory=list)

    @property
    def fitting(self) -> int:
        """Number of modules that fit by name and shape."""
        return len(self.places) - len(self.misfits)


@dataclass(slots=True)
class Detection:
    """A recognised source.

    Attributes:
        grouped: its tensors by module.
        families: by stem.
        match: the base model and every module's place in it.
    """

    grouped: Grouped
    families: dict[str, Family]
    match: Match

    def family(self) -> str:
        """Names of the families, the most frequent first."""
        counts = Counter(family.name for family in self.families.values())
        return "+".join(name for name, _ in counts.most_common())


def detect(source: Source, base: Architecture | None = None, *, allow_partial: bool = False) -> Detection:
    """Recognise a source against ``base``, or against every shipped base model.

    Raises:
        UnsupportedFamily: recognised as something that is not converted.
        UnknownFamily: not recognised, or tensors that nothing explains.
        AmbiguousFamily: more than one base model fits.
        BaseMismatch: no base model fits, or not wholly.
        LayerShapeError, FormatError: tensors that contradict each other.
    """
    grouped = group(source)
    families = classify_modules(source, grouped, allow_partial=allow_partial)
    candidates = [base] if base else [architectures.load(name) for name in architectures.names()]
    match = choose(source, fit_all(grouped, families, candidates), given=base is not None)
    check_whole(source, match, allow_partial=allow_partial)
    return Detection(grouped, families, match)


def group(source: Source) -> Grouped:
    """Put the tensors that belong together in one module each, by the longest known suffix of their names."""
    if found := rejection(source.tensors):
        reject, first = found
        raise UnsupportedFamily(f"is {reject.name}, which cannot be converted", file=source.path, key=first,
                                hint=reject.hint or None)  # fmt: skip
    grouped = Grouped()
    adapters: dict[str, str] = {}
    for name, tensor in source.tensors.items():
        key = keys.split(name)
        bundle = _BUNDLE.fullmatch(name)
        drop = next((reason for pattern, reason in _DROPS if pattern.match(name)), None)
        if bundle:
            grouped.embeddings[name] = (bundle["token"], bundle["kind"])
        elif drop is not None:
            grouped.dropped[name] = drop
        elif key is None:
            grouped.unknown.append(name)
        else:
            adapters.setdefault(key.adapter, name)
            if key.stem not in grouped.modules:
                reading = keys.read_stem(key.stem)
                grouped.modules[key.stem] = SourceModule(key.stem, source.path, reading, spelling=key.spelling)
            module = grouped.modules[key.stem]
            if key.slot in module.tensors:
                raise AmbiguousFamily(
                    "two tensors of the file mean the same", file=source.path, key=name, found=module.names[key.slot]
                )
            module.tensors[key.slot], module.names[key.slot] = tensor, name
    named = [adapter for adapter in adapters if adapter]
    if len(named) > 1:
        raise AmbiguousFamily(
            "the file holds several PEFT adapters", file=source.path, key=adapters[named[1]],
            found=", ".join(named), hint="Save one adapter a file.",
        )  # fmt: skip
    return grouped


def classify_modules(source: Source, grouped: Grouped, *, allow_partial: bool) -> dict[str, Family]:
    """The family of every module; unsupported and unknown ones are errors, or dropped where a part may be."""
    families: dict[str, Family] = {}
    for stem, module in list(grouped.modules.items()):
        family = classify(module.tensors)
        if family is None:
            grouped.unknown.extend(module.names.values())
            del grouped.modules[stem]
        else:
            families[stem] = family
    if not families:
        raise _unknown(source, grouped)
    refused = {stem: family for stem, family in families.items() if family.lower is None}
    if refused and (not allow_partial or len(refused) == len(families)):
        stem, family = next(iter(refused.items()))
        counts = Counter(family.title for family in refused.values())
        raise UnsupportedFamily(
            f"is {' and '.join(counts)} ({len(refused)} of {len(families)} modules): {family.reason}",
            file=source.path, key=stem,
        )  # fmt: skip
    for stem, family in refused.items():
        grouped.dropped |= dict.fromkeys(grouped.modules.pop(stem).names.values(), f"{family.title}: {family.reason}")
        del families[stem]
    if grouped.unknown and not allow_partial:
        raise _unknown(source, grouped)
    grouped.dropped |= dict.fromkeys(grouped.unknown, "no converter knows what it is")
    return families


def _unknown(source: Source, grouped: Grouped) -> UnknownFamily:
    if not source.tensors:
        return UnknownFamily("holds no tensors", file=source.path)
    shown = ", ".join(grouped.unknown[:_SHOWN])
    slots = _slots_of(grouped.unknown)
    family, objection = nearest(slots)
    close = f"; nearest is {family.title}, but a module {objection}" if slots else ""
    return UnknownFamily(
        f"{len(grouped.unknown)} of {len(source.tensors)} tensors are of no known family{close}",
        file=source.path, key=grouped.unknown[0] if grouped.unknown else None, found=shown or None,
        hint=f"Known families: {', '.join(family.name for family in FAMILIES)}.",
    )  # fmt: skip


def _slots_of(names: list[str]) -> set[str]:
    """Slots of the module that the first explicable name belongs to."""
    split = [key for name in names if (key := keys.split(name))]
    return {key.slot for key in split if key.stem == split[0].stem}


def fit_all(grouped: Grouped, families: Mapping[str, Family], candidates: list[Architecture]) -> list[Match]:
    """Matches of the base models that could be meant: by names alone if those names' shapes fit as well."""
    matches = [place_all(grouped, candidate) for candidate in candidates]
    most = max(len(match.places) for match in matches)
    by_names = [match for match in matches if len(match.places) == most]
    for match in by_names:
        check_shapes(grouped, families, match)
    if any(not match.misfits for match in by_names):
        return by_names
    for match in matches:
        check_shapes(grouped, families, match)
    return matches


def place_all(grouped: Grouped, architecture: Architecture) -> Match:
    """Place every module in one base model, by name."""
    match = Match(architecture)
    bare = _bare_component(grouped, architecture)
    for stem, module in grouped.modules.items():
        place = keys.locate(module.reading, architecture, bare)
        if place is None:
            match.strangers.append(stem)
        else:
            match.places[stem] = place
    return match


def check_shapes(grouped: Grouped, families: Mapping[str, Family], match: Match) -> None:
    """Note the placed modules whose shapes are not the base's."""
    for stem, place in match.places.items():
        if error := _misfit(grouped.modules[stem], families[stem], target(match.architecture, place)):
            match.misfits[stem] = error


def _bare_component(grouped: Grouped, architecture: Architecture) -> tuple[str, ...]:
    """The one component that names without a prefix can mean: that with most of them, fitting by sizes."""
    modules = [module for module in grouped.modules.values() if not module.reading.components]

    def score(component: str) -> int:
        places = ((module, keys.locate(module.reading, architecture, (component,))) for module in modules)
        return sum(place is not None and _sizes_fit(module, target(architecture, place)) for module, place in places)

    return (max(architecture.components, key=score),) if modules and architecture.components else ()


def _sizes_fit(module: SourceModule, target: Target) -> bool:
    """Whether input and output sizes of a low-rank pair are the base's; anything else fits by its name."""
    if not {"down", "up"} <= module.tensors.keys() or len(target.shape) < 2:
        return True
    sizes = module.tensors["up"].shape[:1], module.tensors["down"].shape[1:2]
    return sizes == (target.shape[:1], target.shape[1:2])


def _misfit(module: SourceModule, family: Family, target: Target) -> SiHubError | None:
    if family.lower is None:
        return None
    try:
        family.lower(module, target)
    except BaseMismatch as error:
        return error
    return None


def target(architecture: Architecture, place: keys.Place) -> Target:
    """All parts of a place as one module, stacked along the output axis."""
    modules = architecture.components[place.component].modules
    held = [modules[part.path] for part in place.parts]
    if len(held) == 1:
        return Target(held[0].kind, held[0].shape, held[0].bias)
    rows = sum(module.shape[0] for module in held)
    return Target(held[0].kind, (rows, *held[0].shape[1:]), all(module.bias for module in held))


def choose(source: Source, matches: list[Match], *, given: bool) -> Match:
    """The base model that fits best: by names, then by shapes, then by what the metadata say.

    Raises:
        BaseMismatch: not one module fits.
        AmbiguousFamily: several bases fit equally well.
    """
    most = max(match.fitting for match in matches)
    best = [match for match in matches if match.fitting == most]
    if most == 0:
        raise _no_base(source, best[0], given=given)
    if len(best) > 1:
        hinted = header.hinted_bases(source.metadata)
        best = [match for match in best if match.architecture.name in hinted] or best
    if len(best) > 1:
        raise AmbiguousFamily(
            "more than one base model fits by names and shapes", file=source.path,
            found=", ".join(match.architecture.name for match in best),
            hint="Say which one it is for with --base.",
        )  # fmt: skip
    return best[0]


def _no_base(source: Source, match: Match, *, given: bool) -> BaseMismatch:
    what = match.architecture.name if given else "any shipped base model"
    error = next(iter(match.misfits.values()), None)
    if given and error is not None:
        return BaseMismatch(
            f"none of its modules fits {what}: {error.problem}", file=source.path, key=error.key,
            expected=error.expected, found=error.found,
        )  # fmt: skip
    stems = [*match.strangers, *match.misfits]
    return BaseMismatch(
        f"none of its {len(stems)} modules fits {what}", file=source.path,
        found=", ".join(stems[:_SHOWN]),
        hint="Name the base model with --base: a diffusers folder, or one of "
        + ", ".join(architectures.names()) + ".",
    )  # fmt: skip


def check_whole(source: Source, match: Match, *, allow_partial: bool) -> None:
    """Refuse a source that fits its base only in part, and modules that two names mean.

    Raises:
        BaseMismatch, AmbiguousFamily.
    """
    for first, second in _doubles(match):
        raise AmbiguousFamily("two modules of the file are the same module of the base model",
                              file=source.path, key=second, found=first)  # fmt: skip
    if allow_partial:
        return
    name = match.architecture.name
    if match.strangers:
        raise BaseMismatch(
            f"{len(match.strangers)} of {len(match.strangers) + len(match.places)} modules are not in {name}",
            file=source.path, key=match.strangers[0], found=", ".join(match.strangers[:_SHOWN]),
            hint="Say which base model it is for with --base, or convert what fits with --allow-partial.",
        )  # fmt: skip
    if match.misfits:
        error = next(iter(match.misfits.values()))
        raise BaseMismatch(
            f"{len(match.misfits)} of {len(match.places)} modules do not fit {name}: {error.problem}",
            file=source.path, key=error.key, expected=error.expected, found=error.found,
            hint="Say which base model it is for with --base, or convert what fits with --allow-partial.",
        )  # fmt: skip


def _doubles(match: Match) -> Iterator[tuple[str, str]]:
    seen: dict[tuple[str, str], str] = {}
    for stem, place in match.places.items():
        for part in place.parts:
            first = seen.setdefault((place.component, part.path), stem)
            if first != stem:
                yield first, stem
