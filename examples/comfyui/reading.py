"""What the nodes are told, and the adapter in a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from si_hub import format
from si_hub.adapter import Adapter
from si_hub.converters import convert_source
from si_hub.errors import UsageError
from si_hub.schedule import check_constant
from si_hub.storage.header import read_safetensors


@dataclass(frozen=True)
class Wish:
    """One adapter as it is wanted: weights by branch name, empty where its router chooses."""

    file: str
    strength_model: float = 1.0
    strength_clip: float = 1.0
    styles: Mapping[str, float] = field(default_factory=dict)


def read_adapter(path: Path) -> Adapter:
    """A StyleInject file, or what any other adapter file is converted to.

    Raises:
        SiHubError: the file is broken, of no known family, or a function of the base's weights; its weights change by
            step.
    """
    adapter = format.read(path) if format.is_styleinject(read_safetensors(path)) else convert_source(path).adapter
    check_constant(adapter.about, path)
    return adapter


def read_weights(text: str) -> dict[str, float]:
    """``ink=0.7, neon=0.3`` as numbers by name; UsageError for anything else."""
    weights: dict[str, float] = {}
    for item in filter(None, re.split(r"[,\s]+", text)):
        name, equals, value = item.partition("=")
        if not name or not equals or name in weights:
            raise UsageError("is no style=weight, or says a style twice", key=item, hint="Write ink=0.7, neon=0.3")
        weights[name] = _number(value, item)
    return weights


def read_list(text: str) -> list[Wish]:
    """A line an adapter: its file, one or two strengths, weights of styles; ``#`` begins a remark.

    Raises:
        UsageError: a line that says anything else.
    """
    wishes = []
    for line in text.splitlines():
        # A file's name may have spaces: it ends where its extension does.
        match = re.match(r"\s*([^#]*?\.(?:safetensors|ckpt|pt|bin))(?:\s+(.*))?$", line.partition(" #")[0])
        if match is None:
            if line.strip() and not line.strip().startswith("#"):
                raise UsageError("names no file", key=line.strip()[:200], hint="Write FILE 0.8 ink=0.7 neon=0.3")
            continue
        words = (match[2] or "").replace(",", " ").split()
        strengths = [_number(word, word) for word in words if "=" not in word]
        if len(strengths) > 2:
            raise UsageError("has more than two strengths", key=match[1], hint="Write FILE model clip style=weight")
        model = strengths[0] if strengths else 1.0
        styles = read_weights(" ".join(word for word in words if "=" in word))
        wishes.append(Wish(match[1], model, strengths[-1] if strengths else 1.0, styles))
    return wishes


def _number(text: str, item: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError("is no number", key=item, hint="Write numbers such as 0.7") from None
