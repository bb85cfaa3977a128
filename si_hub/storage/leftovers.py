"""What killed processes leave behind: temporaries that nobody writes any more, removed by whoever writes there next."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from shutil import rmtree

from si_hub.storage.system import claim_file, open_file

#: What a killed process can leave behind, in the target's folder: ``.si-hub-<16 hex digits>.tmp``, and folders of
#: transfers. Safe to delete.
TEMPORARY_PREFIX, TEMPORARY_SUFFIX = ".si-hub-", ".tmp"
#: Seconds after which a temporary that nobody has written to is old; no transfer waits as long for its next byte.
OLD = 24 * 3600.0

_NAME = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}[0-9a-z_]{{8,16}}{re.escape(TEMPORARY_SUFFIX)}")


def sweep_leftovers(folder: Path) -> None:
    """Remove temporaries of ours in ``folder`` that are old and have no owner; what cannot be looked at stays."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in [entry for entry in entries if _NAME.fullmatch(entry.name)]:
            with suppress(OSError):
                if _is_old(entry):
                    _remove(entry)


def _is_old(entry: os.DirEntry[str]) -> bool:
    return max(_times(entry)) < time.time() - OLD


def _times(entry: os.DirEntry[str]) -> Iterator[float]:
    """When something was last written: the file, or what of a folder was last."""
    yield entry.stat(follow_symlinks=False).st_mtime
    if entry.is_dir(follow_symlinks=False):
        with os.scandir(entry.path) as inner:
            for one in inner:
                yield from _times(one)


def _remove(entry: os.DirEntry[str]) -> None:
    mode = entry.stat(follow_symlinks=False).st_mode
    if stat.S_ISDIR(mode):
        rmtree(entry.path, ignore_errors=True)
    elif stat.S_ISLNK(mode):
        os.unlink(entry.path)
    elif stat.S_ISREG(mode):
        descriptor = open_file(Path(entry.path))
        try:
            left = claim_file(descriptor)
        finally:
            os.close(descriptor)
        if left:
            os.unlink(entry.path)
