"""Which of the base models a source is for: one that nothing in it contradicts, or none."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from si_hub.architectures import load
from si_hub.converters import metadata
from si_hub.converters.detect.grouping import Grouped
from si_hub.converters.detect.matching import Match, fit, hint_at_base, target
from si_hub.converters.families.contract import Family
from si_hub.converters.naming.names import names_in
from si_hub.converters.source import Source
from si_hub.errors import AmbiguousFamily, BaseMismatch
from si_hub.words import option


def choose_base(
    source: Source, grouped: Grouped, families: Mapping[str, Family], matches: list[Match], *, given: bool
) -> list[Match]:
    """The bases that names, shapes and metadata agree on: one, or several where they leave several.

    Args:
        matches: of the base that was given, or of all that could be meant.
        given: the user named it, so that metadata do not count.

    Raises:
        BaseMismatch: not one module fits; or the metadata name another base than names and shapes.
    """
    most = max((match.fitting for match in matches), default=0)
    if most == 0:
        raise _no_base(source, grouped, matches, given=given)
    if given:
        return matches
    best = _keep_agreeing(source, grouped, families, [match for match in matches if match.fitting == most])
    if len(best) > 1:
        # Files do write 1x1 convolutions as linear layers, but not where nothing else made them: this comes last.
        reshaped = [_count_reshaped(grouped, families, match) for match in best]
        best = [match for match, count in zip(best, reshaped, strict=True) if count == min(reshaped)]
    if len(best) > 1:
        best = [match for match in best if match.is_complete] or best
    return best


def ambiguous_base(source: Source, best: list[Match]) -> AmbiguousFamily:
    """The error for a source that several base models fit equally well."""
    return AmbiguousFamily(
        "more than one base model fits by names and shapes", file=source.path,
        found=", ".join(match.architecture.name for match in best),
        hint=f"Say which one it is for with {option('base')}.",
    )  # fmt: skip


def _keep_agreeing(source: Source, grouped: Grouped, families: Mapping[str, Family], best: list[Match]) -> list[Match]:
    """Those of the best matches that the metadata do not contradict.

    Raises:
        BaseMismatch: they contradict all of them.
    """
    said = metadata.named_bases(source.metadata)
    agreeing = [match for match in best if said.allows(match.architecture.name)]
    if agreeing:
        return agreeing
    fitting = ", ".join(match.architecture.name for match in best)
    meant = next((fit(grouped, families, load(name)) for name in sorted(said.bases)), None)
    error = meant and next(iter(meant.misfits.values()), None)
    lacking = meant and next(iter(meant.strangers), None)
    why = (
        f"; {meant.architecture.name} has no such module"
        if meant and lacking
        else f"; {error.problem}"
        if error
        else ""
    )
    raise BaseMismatch(
        f"its metadata name another base model than its modules{why}", file=source.path,
        key=lacking or (error.key if error else None), expected=f"{fitting}, by names and shapes", found=said.quote(),
        hint=f"Say which one it is for with {option('base')}.",
    )  # fmt: skip


def _count_reshaped(grouped: Grouped, families: Mapping[str, Family], match: Match) -> int:
    """Number of modules written with the axes of another kind of module than the base's."""
    return sum(
        axes(grouped.modules[stem])[0] != len(target(match.architecture, place).shape)
        for stem, place in match.places.items()
        if (axes := families[stem].axes)
    )


def _no_base(source: Source, grouped: Grouped, matches: list[Match], *, given: bool) -> BaseMismatch:
    """Nothing fits: the base that knows most of the names, and the first of them whose shape is another."""
    match = max(matches, key=lambda match: len(match.places), default=None)
    what = match.architecture.name if given and match else "any shipped base model"
    error = next(iter(match.misfits.values()), None) if match else None
    if match and error is not None:
        near = "" if given else f"; nearest is {match.architecture.name}"
        return BaseMismatch(
            f"none of its modules fits {what}{near}: {error.problem}", file=source.path, key=error.key,
            expected=error.expected, found=error.found, hint=hint_at_base(given=given),
        )  # fmt: skip
    first = next(iter(grouped.modules))
    near_names = (
        get_close_matches(grouped.modules[first].reading.body, names_in(match.architecture), 1)
        if given and match
        else []
    )
    return BaseMismatch(
        f"none of its {len(grouped.modules)} modules is in {what}", file=source.path, key=first,
        expected=f"a module of {what}, such as {near_names[0]}" if near_names else None, hint=hint_at_base(given=given),
    )  # fmt: skip
