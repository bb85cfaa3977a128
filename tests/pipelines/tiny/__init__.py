"""Tiny pipelines of many classes, made of configurations: nothing is downloaded."""

from __future__ import annotations

from tests.pipelines.tiny import pictures, unets, videos
from tests.pipelines.tiny.table import Tiny, build, classes

__all__ = ["CLASSES", "Tiny", "build", "pictures", "unets", "videos"]

#: Every class that is built, by name.
CLASSES = classes()
