"""What a foreign adapter is: its modules, their families, and the base model whose modules they are.

Names, shapes and metadata decide; tensor data are never touched.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from si_hub import architectures
from si_hub.architectures import Architecture
from si_hub.converters.detect.grouping import Grouped, classify_modules, group
from si_hub.converters.detect.matching import Match, check_whole, choose, fit_all
from si_hub.converters.families.contract import Family
from si_hub.converters.source import Source


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
    match = choose(source, grouped, families, fit_all(grouped, families, candidates), given=base is not None)
    check_whole(source, match, allow_partial=allow_partial)
    return Detection(grouped, families, match)
