"""Which surveys are kept in the cache, and how many bytes of them; nothing of a survey is read here."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from si_hub.work.folder import Work, discard

#: Surveys that stay in the cache, besides those of one run, and the bytes that they may have together.
KEPT, MOST_SURVEYED = 4, 32 << 30


@dataclass(frozen=True, slots=True)
class KeptSurvey:
    """A survey in the cache.

    Attributes:
        folder: where.
        size: bytes of its files.
        used: when it was last used, in seconds of the clock.
    """

    folder: Path
    size: int
    used: float


def survey_home() -> Path:
    """The user's own folder of surveys."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "si-hub" / "distill"


def find_surveys(home: Path) -> list[KeptSurvey]:
    """The surveys in a folder, that last used first; what is no survey is not among them."""
    found: list[KeptSurvey] = []
    for folder in home.iterdir() if home.is_dir() else ():
        # Another run may throw one away meanwhile.
        with suppress(FileNotFoundError, NotADirectoryError):
            used = (folder / "plan.json").stat().st_mtime
            found.append(KeptSurvey(folder, sum(file.stat().st_size for file in folder.iterdir()), used))
    return sorted(found, key=lambda one: (one.used, str(one.folder)), reverse=True)


def make_room(work: Work, others: int, room: int = MOST_SURVEYED) -> None:
    """Throw away the surveys beside one that were not used for longest, but for those in use.

    Args:
        work: the one that stays.
        others: how many may stay beside it.
        room: bytes that those may have together.
    """
    for place, one in enumerate(kept for kept in find_surveys(work.folder.parent) if kept.folder != work.folder):
        room -= one.size
        if place >= others or room < 0:
            discard(one.folder)
