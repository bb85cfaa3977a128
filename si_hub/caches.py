"""What this package keeps in caches of its own: how much there is, and an end to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from si_hub.distill.survey.kept import MOST_SURVEYED, find_surveys, survey_home
from si_hub.foreign import join_safely
from si_hub.pipelines.converted import MOST_BYTES, empty_converted, find_kept
from si_hub.report.text import size_text
from si_hub.work.folder import discard


@dataclass(frozen=True, slots=True)
class CacheFolder:
    """One cache.

    Attributes:
        purpose: what it is for.
        folder: where; ``None`` where it is switched off.
        count: things in it.
        size: their bytes.
        limit: bytes that they may have.
    """

    purpose: str
    folder: Path | None
    count: int
    size: int
    limit: int


@dataclass(frozen=True, slots=True)
class Caches:
    """All of them."""

    folders: tuple[CacheFolder, ...]

    def as_dict(self) -> dict[str, Any]:
        """The caches as JSON data."""
        return {
            one.purpose: {
                "folder": None if one.folder is None else str(one.folder), "count": one.count, "size": one.size,
                "limit": one.limit,
            }
            for one in self.folders
        }  # fmt: skip

    def as_text(self) -> str:
        """The caches as lines for people."""
        return join_safely(
            [
                f"{one.purpose}: {one.count}, {size_text(one.size)} of {size_text(one.limit)}, "
                f"{'switched off' if one.folder is None else one.folder}"
                for one in self.folders
            ]
        )


def list_caches() -> Caches:
    """What there is; folders that were named for one run are not among them."""
    home = survey_home()
    surveys = find_surveys(home)
    kept = find_kept()
    conversions = (
        CacheFolder("conversions", None, 0, 0, MOST_BYTES) if kept is None
        else CacheFolder("conversions", kept[0], len(kept[1]), sum(kept[1].values()), MOST_BYTES)
    )  # fmt: skip
    return Caches(
        (CacheFolder("surveys", home, len(surveys), sum(one.size for one in surveys), MOST_SURVEYED), conversions)
    )


def empty_caches() -> None:
    """Throw away everything that no run is using; what is no part of a cache stays."""
    for one in find_surveys(survey_home()):
        discard(one.folder)
    empty_converted()
