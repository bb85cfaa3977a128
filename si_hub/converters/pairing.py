"""Two files for the two denoisers of one base model, such as Wan 2.2's of high and of low noise, as one adapter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from si_hub.architectures.checkpoint import DENOISERS
from si_hub.converters.checking import Check
from si_hub.converters.reading import Conversion, convert_source
from si_hub.converters.report import Report
from si_hub.converters.source import Source, open_source
from si_hub.errors import AmbiguousFamily, BaseMismatch, UsageError
from si_hub.words import option


def _word(word: str) -> re.Pattern[str]:
    """A word of a file's name: by itself, with a capital, or before ``noise``."""
    alone = "|".join((word, word.capitalize(), word.upper()))
    return re.compile(rf"(?<![A-Za-z])(?:{alone})(?![a-z])|(?i:{word}[ _-]?noise)")


#: How files say in their names which noise they are for.
_HIGH, _LOW = _word("high"), _word("low")


def order_pair(paths: Sequence[str | Path]) -> tuple[Path, Path]:
    """The file of the first denoiser, which takes the high noise, and that of the second; by name, else as given.

    Raises:
        UsageError: not two files.
    """
    if len(paths) != 2:
        raise UsageError("a pair is two files, one for each denoiser", found=len(paths))
    first, second = map(Path, paths)
    swapped = _says(first, _LOW, _HIGH) and _says(second, _HIGH, _LOW)
    return (second, first) if swapped else (first, second)


def _says(path: Path, word: re.Pattern[str], other: re.Pattern[str]) -> bool:
    return bool(word.search(path.stem)) and not other.search(path.stem)


def convert_pair(paths: Sequence[str | Path], **options: Any) -> Conversion:
    """Two files as one adapter: the first for the first denoiser, the second for the second; see `order_pair`.

    Args:
        options: of `convert_source`.

    Raises:
        UsageError: not two files.
        BaseMismatch: the base model has one denoiser, or both files change another component.
        AmbiguousFamily: no base model is named and the files leave several.
        SiHubError: as `convert_source`.
    """
    sources = [open_source(path) for path in order_pair(paths)]
    high = convert_source(sources[0], **options)
    denoisers = [name for name in DENOISERS if name in high.base.components]
    if len(denoisers) != 2:
        raise BaseMismatch(
            f"is for {high.base.name}, which has no second denoiser", file=sources[0].path,
            expected="a base model of two denoisers, such as wan2.2-t2v-a14b",
            hint=f"Name it with {option('base')}, or convert each file by itself.",
        )  # fmt: skip
    low = convert_source(sources[1], **{**options, "base": options.get("base") or high.base, "denoiser": denoisers[1]})
    return _join(high, low)


def _join(high: Conversion, low: Conversion) -> Conversion:
    """Both in one: components of both, and what became of the tensors of both."""
    components = dict(high.adapter.components)
    for name, component in low.adapter.components.items():
        if name in components:
            raise AmbiguousFamily(
                f"both files change the {name}", file=low.source.path, found=high.source.path.name,
                hint="Convert each by itself.",
            )  # fmt: skip
        components[name] = component
    about = {**low.adapter.about, **high.adapter.about}
    parts = (high.source, low.source)
    mine, other = (one.adapter.about["provenance"] for one in (high, low))
    entries = [one["source"] for one in (mine, other)]
    about["provenance"] = {
        **{key: value for key, value in mine.items() if key not in {"source", "exact", "left_out", "check"}},
        "sources": entries,
        "layout": {**other["layout"], **mine["layout"]},
        **({"exact": True} if mine.get("exact") and other.get("exact") else {}),
    }
    report = _join_reports(high, low)
    if lost := report.lost:
        about["provenance"]["left_out"] = len(lost)
    if report.check:
        about["provenance"]["check"] = report.check.as_dict()
    tensors = {f"{part.path.name}: {name}": tensor for part in parts for name, tensor in part.tensors.items()}
    source = Source(high.source.path, sum(part.size for part in parts), tensors, high.source.metadata, parts=parts)
    return replace(
        high, adapter=replace(high.adapter, components=components, about=about), report=report, source=source,
        origins=high.origins.beside(low.origins),
    )  # fmt: skip


def _join_reports(high: Conversion, low: Conversion) -> Report:
    report = Report()
    for one in (high, low):
        name = one.source.path.name
        report.uses |= {f"{name}: {tensor}": use for tensor, use in one.report.uses.items()}
        report.left_out |= one.report.left_out
        report.notes += [f"{name}: {note}" for note in one.report.notes]
    checks = [one.report.check for one in (high, low) if one.report.check]
    if checks:
        worst = max(checks, key=lambda check: check.largest_error)
        report.check = Check(sum(check.modules for check in checks), worst.largest_error, worst.module)
    return report
