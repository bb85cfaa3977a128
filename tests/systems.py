"""What a test needs of the system that it runs on."""

from __future__ import annotations

import os

import pytest

#: Of forks, signals that end a process at a place of its choice, terminals, named pipes, permissions.
posix_alone = pytest.mark.skipif(not hasattr(os, "fork"), reason="of POSIX alone")
#: Whether modes of files keep this user from nothing: he is root, or the system has none.
IS_ROOT = not hasattr(os, "geteuid") or os.geteuid() == 0
