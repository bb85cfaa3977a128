"""What a foreign adapter is: its modules, their families, and the base model whose modules they are.

Names, shapes and metadata decide; tensor data are never touched.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from si_hub.architectures import Architecture
from si_hub.converters.dense import Weights
from si_hub.converters.detect.choosing import ambiguous_base, choose_base
from si_hub.converters.detect.grouping import (
    SAVED_WHOLE,
    WITHOUT_BASE,
    Grouped,
    classify_modules,
    group,
    lacking_weights,
    quantised,
    refusal,
    saved_whole,
    unknown_tensors,
    unusual_gates,
)
from si_hub.converters.detect.matching import Match, fit, fit_shipped, target, targets, whole_match
from si_hub.converters.families.contract import Family
from si_hub.converters.source import Source
from si_hub.errors import BaseMismatch, SiHubError


class Objection(NamedTuple):
    """Why a source is not converted.

    Attributes:
        error: as it would be raised.
        partial: the rest can be converted in spite of it.
    """

    error: SiHubError
    partial: bool


@dataclass(slots=True)
class Detection:
    """A recognised source.

    Attributes:
        grouped: its tensors by module.
        families: by stem, those that are not converted too.
        weights: of the base model, where they are given.
        matches: the base model and every module's place in it; several where a choice is left, none where nothing fits.
        objections: all that keeps it from being converted whole, what matters most first.
    """

    grouped: Grouped
    families: dict[str, Family]
    weights: Weights | None = None
    matches: list[Match] = field(default_factory=list)
    objections: list[Objection] = field(default_factory=list)

    def family(self) -> str:
        """Names of the families, the most frequent first."""
        counts = Counter(family.name for family in self.families.values())
        return "+".join(name for name, _ in counts.most_common())

    def needing_base(self, match: Match) -> list[str]:
        """Modules that are functions of the base model's own weights."""
        return [
            stem for stem, place in match.places.items()
            if stem not in match.misfits
            and self.families[stem].needs_base(self.grouped.modules[stem], target(match.architecture, place))
        ]  # fmt: skip

    def check(self, *, allow_partial: bool) -> Match:
        """The match, where the source can be converted, whole or in part; raises the first objection otherwise."""
        for error, partial in self.objections:
            if not (partial and allow_partial):
                raise error
        [match] = self.matches
        return match

    def left_out(self, match: Match) -> dict[str, str]:
        """Stem → why, of every module that is not converted.

        A module is converted whole or not: where one of two that change the same base module has to be left out, so
        has the other, since neither alone is what was trained.
        """
        reasons = dict.fromkeys(match.strangers, f"{match.architecture.name} has no such module")
        reasons |= {stem: error.problem for stem, error in match.misfits.items()}
        reasons |= {
            stem: f"{family.title}: {family.reason}"
            for stem, family in self.families.items()
            if not family.is_converted
        }
        if self.weights is None:
            reasons |= {stem: SAVED_WHOLE for stem, module in self.grouped.modules.items() if module.whole}
            reasons |= {stem: f"{self.families[stem].title}: {WITHOUT_BASE}" for stem in self.needing_base(match)}
        lost = {changed: stem for stem, changed in targets(match) if stem in reasons}
        for stem, changed in targets(match):
            if changed in lost and stem not in reasons:
                reasons[stem] = f"is nothing without {lost[changed]}, which is left out"
        return reasons


def examine(source: Source, base: Architecture | None = None, weights: Weights | None = None) -> Detection:
    """Recognise a source against ``base``, or against every shipped base model; what is wrong is kept, not raised.

    Args:
        source: to be looked at.
        base: the base model, where the user named it.
        weights: of the base, where he named their folder.

    Raises:
        NotAnAdapter: something else.
        UnknownFamily: not one module of a known family.
        LayerShapeError, FormatError: tensors that contradict each other.
    """
    grouped = group(source)
    found = Detection(grouped, classify_modules(source, grouped), weights)
    if error := quantised(source) or unusual_gates(source):
        found.objections.append(Objection(error, partial=False))
    if weights is None and (error := saved_whole(source, grouped)):
        found.objections.append(Objection(error, partial=True))
    if error := refusal(source, found.families):
        found.objections.append(Objection(error, any(family.is_converted for family in found.families.values())))
    if grouped.unknown:
        found.objections.append(Objection(unknown_tensors(source, grouped), partial=True))
    matches = [fit(grouped, found.families, base)] if base else fit_shipped(grouped, found.families)
    try:
        found.matches = choose_base(source, grouped, found.families, matches, given=base is not None)
    except BaseMismatch as error:
        found.objections.append(Objection(error, partial=False))
    for match in found.matches[:1]:
        if len(found.matches) > 1 and match.fits_nearly:
            found.objections.append(Objection(ambiguous_base(source, found.matches), partial=False))
        if weights is None and len(found.matches) == 1 and (stems := found.needing_base(match)):
            lacking = lacking_weights(source, found.families, stems)
            found.objections.append(Objection(lacking, partial=len(stems) < len(found.families)))
        whole = whole_match(source, match, given=base is not None)
        found.objections.extend(Objection(error, partial) for error, partial in whole)
    return found


def detect(source: Source, base: Architecture | None = None, *, allow_partial: bool = False) -> Detection:
    """As `examine`, for a source that is to be converted.

    Raises:
        UnsupportedFamily: recognised as something that is not converted.
        UnknownFamily: not recognised, or tensors that nothing explains.
        AmbiguousFamily: more than one base model fits.
        BaseMismatch: no base model fits, or not wholly, or the metadata name another.
        LayerShapeError, FormatError: tensors that contradict each other.
    """
    found = examine(source, base)
    found.check(allow_partial=allow_partial)
    return found
