"""What a test needs of the system that it runs on."""

from __future__ import annotations

import os

import pytest

#: Of forks, signals that end a process at a place of its choice, terminals, named pipes, permissions.
posix_alone = pytest.mark.skipif(not hasattr(os, "fork"), reason="of POSIX alone")
#: Whether this user may read and write everything.
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
