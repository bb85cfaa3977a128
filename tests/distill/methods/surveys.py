"""How thoroughly the tests look."""

from __future__ import annotations

from typing import Any

#: A short survey: enough for every claim but the quality.
SHORT: dict[str, Any] = {"trajectories": 8, "states": 3, "sampling_steps": 5, "pieces": 16, "held_out": 8}
