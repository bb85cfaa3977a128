"""The command line: parse, call, print. What the commands do lives in the rooms they call.

Results go to stdout, everything else to stderr. Exit codes are those of `si_hub.errors`: 0 done, 2 usage,
3 format, 4 refused, 5 base mismatch, 6 checksum, 7 missing, 8 file access, 9 no right (token), 10 gated,
11 rate limit, 12 network, 13 conflict, 130 interrupted.
"""

from si_hub.cli import app, cache, convert, distill, edit, export, look, revise, share, train  # noqa: F401 - they add commands
from si_hub.cli.group import main

__all__ = ["main"]
