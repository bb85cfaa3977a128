"""Where the repository and what it ships for the tests lie, from whatever folder the tests are started."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: One StyleInject file of every kind, as version 1.0 wrote it.
GOLDEN = ROOT / "tests" / "golden" / "1.0"
