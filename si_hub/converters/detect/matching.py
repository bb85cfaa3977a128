"""Which base model a source is for: its modules looked up in each one's lists, then held against the shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from si_hub.architectures import Architecture, load, names
from si_hub.architectures.bases import USUAL, Base
from si_hub.architectures.sketch import bases_knowing, find_footprints, sketch_name
from si_hub.converters.detect.grouping import SHOWN, Grouped
from si_hub.converters.families.contract import Family, SourceModule, Target
from si_hub.converters.naming.names import Place, count_alike, locate
from si_hub.converters.source import Source
from si_hub.errors import BaseMismatch, LayerShapeError, SiHubError
from si_hub.words import option, switch

#: The number of modules of one kind from which a model's depth can be told, and from which they are a list of blocks.
DEEP, LIST = 8, 4
#: Above the modules of any adapter, they are not all held against all bases: so many likeliest ones by name are tried.
MODULES, TRIED = 6000, 4
#: The share of modules that must fit before leaving the others out is worth a thought.
NEARLY = 0.9


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

    @property
    def fits_nearly(self) -> bool:
        """Whether nearly all of the source fits, so that leaving out the rest is worth a thought."""
        return self.fitting >= NEARLY * (len(self.places) + len(self.strangers))

    @property
    def is_complete(self) -> bool:
        """Whether the source has all modules of a denoiser that have the last names of its own, in two lists of blocks.

        Trainers choose modules by their last names, and some take the first blocks only. Who took all blocks of two
        lists (double and single ones, down and up ones) trained a model that is just so deep; of a model with one
        list, its first blocks may be meant as well.
        """
        named: dict[tuple[str, str], Counter[str]] = {}
        for place in self.places.values():
            if not place.component.startswith("text_"):
                named.setdefault((place.component, place.layout), Counter())[sketch_name(place.body)] += 1
        return bool(named) and all(
            _is_all_of_its_kind(count_alike(self.architecture.components[component], layout), held)
            for (component, layout), held in named.items()
        )


def _is_all_of_its_kind(model: Mapping[str, int], held: Mapping[str, int]) -> bool:
    """Whether these are all of a model's modules with these last names, of two lists of blocks; by sketch."""
    tails = {sketch.rpartition("#")[2] for sketch in held}
    wanted = {sketch: count for sketch, count in model.items() if sketch.rpartition("#")[2] in tails}
    lists = {sketch.partition("#")[0] for sketch, count in held.items() if count >= LIST}
    return held == wanted and len(lists) > 1 and max(held.values()) >= DEEP


def fit_shipped(grouped: Grouped, families: Mapping[str, Family]) -> list[Match]:
    """Matches of the shipped base models that could be meant, in the order of their table.

    No more modules of a source fit a base than fit what lies there under any name like theirs, so where another has
    more that do fit, it need not be looked at.
    """
    bounds: Counter[str] = Counter()
    kinds = _gather_alike(grouped, families)
    is_huge = len(grouped.modules) > MODULES
    for kind in kinds:
        for base in bases_knowing(_sketch(kind[0])):
            if is_huge or _may_fit(base, kind[0], families):
                bounds[base.name] += len(kind)
    matches: list[Match] = []
    for name in sorted(names(), key=lambda name: -bounds[name])[: TRIED if is_huge else None]:
        if bounds[name] < max((match.fitting for match in matches), default=0):
            break
        matches.append(fit(grouped, families, load(name)))
    return sorted(matches, key=lambda match: names().index(match.architecture.name))


def _gather_alike(grouped: Grouped, families: Mapping[str, Family]) -> list[list[SourceModule]]:
    """Modules whose names look alike, of one family and of the same shapes."""
    kinds: dict[object, list[SourceModule]] = {}
    for stem, module in grouped.modules.items():
        shapes = tuple((slot, tensor.shape) for slot, tensor in sorted(module.tensors.items()))
        kinds.setdefault((_sketch(module), families[stem].name, shapes), []).append(module)
    return list(kinds.values())


def _sketch(module: SourceModule) -> str:
    return sketch_name(module.reading.body.rstrip("_"))


def _may_fit(base: Base, module: SourceModule, families: Mapping[str, Family]) -> bool:
    """Whether anything under a name like a module's fits it in a base model."""
    footprints = find_footprints(base, _sketch(module))
    return any(_misfit(module, families[module.stem], Target(*footprint)) is None for footprint in footprints)


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
    except LayerShapeError as error:
        if family.is_converted:
            raise
        return error
    return None


def target(architecture: Architecture, place: Place) -> Target:
    """All parts of a place as one module, stacked along the output axis."""
    modules = architecture.components[place.component].modules
    held = [modules[part.path] for part in place.parts]
    if len(held) == 1 and place.parts[0].rows is None:
        return Target(held[0].kind, held[0].shape, held[0].bias)
    rows = sum(module.shape[0] for module in held)
    cuts = sorted({at for part in place.parts for span in part.rows or () for at in span})
    return Target(held[0].kind, (rows, *held[0].shape[1:]), all(module.bias for module in held), tuple(cuts))


def whole_match(source: Source, match: Match, *, given: bool) -> Iterator[tuple[BaseMismatch, bool]]:
    """What keeps a source from fitting its base whole, and whether the rest can be converted all the same.

    Args:
        given: the base was named by the user, who may want any part; without him it is not the base unless nearly
            all of the source fits it.
    """
    name, total = match.architecture.name, len(match.strangers) + len(match.places)
    nearly = match.fits_nearly
    hint = f"Convert what fits with {switch('allow_partial')}." if nearly else hint_at_base(given=given)
    name = name if given or nearly else f"{name}, the nearest base model"
    if match.strangers:
        yield BaseMismatch(
            f"{len(match.strangers)} of {total} modules are not in {name}",
            file=source.path, key=match.strangers[0], found=", ".join(match.strangers[:SHOWN]), hint=hint,
        ), given or nearly  # fmt: skip
    if match.misfits:
        error = next(iter(match.misfits.values()))
        yield BaseMismatch(
            f"{len(match.misfits)} of {len(match.places)} modules do not fit {name}: {error.problem}",
            file=source.path, key=error.key, expected=error.expected, found=error.found, hint=hint,
        ), given or nearly  # fmt: skip


def hint_at_base(*, given: bool) -> str:
    """What to do where no base model fits: where the user named one, and where he did not."""
    if given:
        return "It is for another base model, or under names of a trainer that is not known."
    named = f"a diffusers folder, a checkpoint, or a name such as {', '.join(USUAL)}"
    return f"Name its base model with {option('base')}: {named}."


def targets(match: Match) -> Iterator[tuple[str, tuple[str, str]]]:
    """(stem, (component, path)) of every base module that a module of the source changes."""
    for stem, place in match.places.items():
        for part in place.parts:
            yield stem, (place.component, part.path)
