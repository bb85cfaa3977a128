"""``python -m tests.pipelines.tiny``: the tables of pipeline classes that docs/PIPELINES.md has."""

from __future__ import annotations

from tests.pipelines import tiny
from tests.pipelines.tiny.left_out import render

assert tiny.CLASSES
print(render())
