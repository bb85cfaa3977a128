"""Griffe's extension that reads docstrings as `website.entries` does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.append(str(Path(__file__).resolve().parents[1]))
from website.entries import split_names


class SplitNames(griffe.Extension):
    """One entry for each name that a docstring explains together with others."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = split_names(obj.docstring.value)
