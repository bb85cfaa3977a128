"""Which base model a source is for: its modules looked up in each one's lists, then held against the shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from si_hub import architectures
from si_hub.architectures import Architecture
from si_hub.converters import metadata
from si_hub.converters.detect.grouping import SHOWN, Grouped
from si_hub.converters.families.contract import Family, SourceModule, Target
from si_hub.converters.naming.names import Place, locate
from si_hub.converters.source import Source
from si_hub.errors import AmbiguousFamily, BaseMismatch, SiHubError

#: Modules looked up before a base model is tried whole.
SAMPLE = 24


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
    places: dict[str, Place] = field(default_factory=dict)
    misfits: dict[str, SiHubError] = field(default_factory=dict)
    strangers: list[str] = field(default_factory=list)

    @property
    def fitting(self) -> int:
        """Number of modules that fit by name and shape."""
        return len(self.places) - len(self.misfits)


def fit_all(grouped: Grouped, families: Mapping[str, Family], candidates: list[Architecture]) -> list[Match]:
    """Matches of the base models that could be meant: by names alone if those names' shapes fit as well.

    A base that lacks one of a few modules cannot have all of them, so where another has all, it need not be tried.
    """
    few = dict(list(grouped.modules.items())[:: len(grouped.modules) // SAMPLE + 1])
    hits = [len(place_all(few, families, candidate).places) for candidate in candidates]
    likely = [candidate for candidate, hit in zip(candidates, hits, strict=True) if hit == len(few)]
    matches = [fit(grouped, families, candidate) for candidate in likely]
    whole = [match for match in matches if not match.strangers]
    if any(not match.misfits for match in whole):
        return whole
    return [fit(grouped, families, candidate) for candidate in candidates]


def fit(grouped: Grouped, families: Mapping[str, Family], architecture: Architecture) -> Match:
    """The match of one base model, looked at whole."""
    match = place_all(grouped.modules, families, architecture)
    check_shapes(grouped, families, match)
    return match


def place_all(modules: Mapping[str, SourceModule], families: Mapping[str, Family], architecture: Architecture) -> Match:
    """Place modules in one base model, by name."""
    match = Match(architecture)
    bare = _bare_component(modules, families, architecture)
    for stem, module in modules.items():
        place = locate(module.reading, architecture, bare)
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


def _bare_component(
    modules: Mapping[str, SourceModule], families: Mapping[str, Family], architecture: Architecture
) -> tuple[str, ...]:
    """The one component that names without a prefix can mean: that with most of them, fitting by shapes."""
    bare = [module for module in modules.values() if not module.reading.components]

    def score(component: str) -> int:
        places = ((module, locate(module.reading, architecture, (component,))) for module in bare)
        return sum(
            place is not None and _misfit(module, families[module.stem], target(architecture, place)) is None
            for module, place in places
        )

    return (max(architecture.components, key=score),) if bare and architecture.components else ()


def _misfit(module: SourceModule, family: Family, target: Target) -> SiHubError | None:
    try:
        family.fits(module, target)
    except BaseMismatch as error:
        return error
    return None


def target(architecture: Architecture, place: Place) -> Target:
    """All parts of a place as one module, stacked along the output axis."""
    modules = architecture.components[place.component].modules
    held = [modules[part.path] for part in place.parts]
    if len(held) == 1:
        return Target(held[0].kind, held[0].shape, held[0].bias)
    rows = sum(module.shape[0] for module in held)
    return Target(held[0].kind, (rows, *held[0].shape[1:]), all(module.bias for module in held))


def choose(
    source: Source, grouped: Grouped, families: Mapping[str, Family], matches: list[Match], *, given: bool
) -> Match:
    """The match with most fitting modules; of several, those that the metadata name, then the shapes' axes.

    Raises:
        BaseMismatch: not one module fits.
        AmbiguousFamily: several bases fit equally well.
    """
    most = max(match.fitting for match in matches)
    best = [match for match in matches if match.fitting == most]
    if most == 0:
        raise _no_base(source, matches, given=given)
    if len(best) > 1:
        hinted = metadata.hinted_bases(source.metadata)
        best = [match for match in best if match.architecture.name in hinted] or best
    if len(best) > 1:
        # Files do write 1x1 convolutions as linear layers, but not where nothing else made them: this comes last.
        reshaped = [_count_reshaped(grouped, families, match) for match in best]
        best = [match for match, count in zip(best, reshaped, strict=True) if count == min(reshaped)]
    if len(best) > 1:
        raise AmbiguousFamily(
            "more than one base model fits by names and shapes", file=source.path,
            found=", ".join(match.architecture.name for match in best),
            hint="Say which one it is for with --base.",
        )  # fmt: skip
    return best[0]


def _count_reshaped(grouped: Grouped, families: Mapping[str, Family], match: Match) -> int:
    """Number of modules written with the axes of another kind of module than the base's."""
    return sum(
        axes(grouped.modules[stem])[0] != len(target(match.architecture, place).shape)
        for stem, place in match.places.items()
        if (axes := families[stem].axes)
    )


def _no_base(source: Source, matches: list[Match], *, given: bool) -> BaseMismatch:
    """Nothing fits: the base that knows most of the names, and the first of them whose shape is another."""
    match = max(matches, key=lambda match: len(match.places))
    what = match.architecture.name if given else "any shipped base model"
    error = next(iter(match.misfits.values()), None)
    known = "" if given else ", " + ", ".join(architectures.names())
    hint = f"Name its base model with --base: a diffusers folder, a checkpoint{known}."
    if error is not None:
        near = "" if given else f"; nearest is {match.architecture.name}"
        return BaseMismatch(
            f"none of its modules fits {what}{near}: {error.problem}", file=source.path, key=error.key,
            expected=error.expected, found=error.found, hint=hint,
        )  # fmt: skip
    return BaseMismatch(
        f"none of its {len(match.strangers)} modules is in {what}", file=source.path, key=match.strangers[0],
        hint=hint,
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
            file=source.path, key=match.strangers[0], found=", ".join(match.strangers[:SHOWN]),
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
