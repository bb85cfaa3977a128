"""What a foreign adapter holds, converted or not: from its header and its scales, without lowering anything."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from si_hub.architectures import Architecture, resolve
from si_hub.converters.detect.detection import Detection, examine
from si_hub.converters.detect.embeddings import place_embeddings
from si_hub.converters.detect.matching import Match
from si_hub.converters.families.scales import config_of, resolve_alpha
from si_hub.converters.saved import weights_of
from si_hub.converters.source import Source
from si_hub.converters.wayback import name_naming
from si_hub.errors import SiHubError


@dataclass(slots=True)
class Holding:
    """What an adapter holds for one component.

    Attributes:
        modules: number of the base model's modules that it changes; of the source's, where no base is known.
        ranks: number of those with a rank by rank.
        alphas: number of those by alpha; ``"rank"`` where alpha is the rank. Those that cannot be read do not count.
        slots: number of tensors by what they are to their module.
        embeddings: tokens.
    """

    modules: int = 0
    ranks: Counter[int] = field(default_factory=Counter)
    alphas: Counter[str] = field(default_factory=Counter)
    slots: Counter[str] = field(default_factory=Counter)
    embeddings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outline:
    """A foreign adapter, looked at.

    Attributes:
        family: names of its families, the most frequent first.
        bases: the base models that it may be for: one, several between which nothing decides, or none that is known.
        naming: how its names are written, where there is one base.
        holdings: by component; by prefix, where there is not one base.
        dropped: tensors that a partial conversion would leave out, and why.
        problem: what keeps it from being converted as it is.
    """

    family: str
    bases: tuple[str, ...]
    naming: str | None
    holdings: dict[str, Holding]
    dropped: dict[str, str]
    problem: SiHubError | None


def outline(source: Source, base: str | Path | Architecture | None = None) -> Outline:
    """Look at a foreign adapter: torch is not imported, and no tensor but alphas is read.

    Raises:
        NotAnAdapter: it is something else.
        UnknownFamily: not one module of a known family.
        LayerShapeError, FormatError: tensors that contradict each other.
    """
    architecture = None if base is None else resolve(base)
    found = examine(source, architecture, weights_of(base, architecture))
    problem = found.objections[0].error if found.objections else None
    # What fits in part only is not for that base, unless the user says so.
    matches = found.matches if base is not None or all(match.fits_nearly for match in found.matches) else []
    match = matches[0] if len(matches) == 1 else None
    dropped = found.grouped.dropped | dict.fromkeys(found.grouped.unknown, "no converter knows what it is")
    for stem, reason in (found.left_out(match) if match else {}).items():
        dropped |= dict.fromkeys(found.grouped.modules[stem].names.values(), reason)
    holdings, unreadable = _hold(source, found, match)
    return Outline(
        found.family(), tuple(one.architecture.name for one in matches),
        name_naming(match) if match else None, holdings, dropped, problem or unreadable,
    )  # fmt: skip


def _hold(source: Source, found: Detection, match: Match | None) -> tuple[dict[str, Holding], SiHubError | None]:
    """What it holds by component, and what is wrong with the first scale that cannot be read."""
    holdings: dict[str, Holding] = {}
    unreadable: SiHubError | None = None
    for stem, module in found.grouped.modules.items():
        place = match.places.get(stem) if match else None
        if match and place is None:
            continue
        component = place.component if place else module.reading.prefix.strip("._") or "modules"
        body = place.body if place else module.reading.body
        parts = len(place.parts) if place else 1
        holding = holdings.setdefault(component, Holding())
        holding.modules += parts
        holding.slots.update(module.tensors.keys())
        if (rank := found.families[stem].rank_of(module)) is not None:
            holding.ranks[rank] += parts
            try:
                module.config = config_of(source.configs, module, component)
                alpha = resolve_alpha(module, body, rank)
            except SiHubError as error:
                unreadable = unreadable or error
                continue
            holding.alphas["rank" if alpha is None else f"{alpha:g}"] += parts
    if match:
        for token, home in place_embeddings(source, found.grouped, match.architecture).values():
            if home is not None:
                holdings.setdefault(home, Holding()).embeddings.append(token)
    return holdings, unreadable
