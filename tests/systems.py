"""What a test needs of the system that it runs on, and how much it may take of it."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Any

import pytest

#: Of forks, signals that end a process at a place of its choice, terminals, named pipes, permissions.
posix_alone = pytest.mark.skipif(not hasattr(os, "fork"), reason="of POSIX alone")
#: Whether modes of files keep this user from nothing: he is root, or the system has none.
IS_ROOT = not hasattr(os, "geteuid") or os.geteuid() == 0
#: Whether the slow tests go through every way there is, as ``make test-ways`` wants it, or through a few.
EVERY_WAY = bool(os.environ.get("EVERY_WAY"))


def limit_processor(seconds: int) -> dict[str, Any]:
    """Keywords of `subprocess.run` that end a process after so many seconds of a processor, or of a clock elsewhere."""
    if find_spec("resource") is None:
        return {"timeout": 10 * seconds}
    import resource

    return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))}


def peak_memory() -> int:
    """The most bytes of memory that this process has had."""
    if find_spec("resource") is None:
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
