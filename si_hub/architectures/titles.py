"""What a whole model is called whose file has names of tensors only, no shapes that are looked at."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from itertools import takewhile

from si_hub.architectures.bases import BASES
from si_hub.architectures.sketch import sketch_name, sketch_table

#: Where files keep the denoiser.
_START = re.compile(r"^(?:(?:model\.)?diffusion_model\.|(?:model|net|unet|transformer)\.)")
#: What follows a module's name: its numbers, and what quantised models keep beside them.
LEAF = re.compile(r"\.(?:weight|bias|scale|(?:weight|input|output)_scale(?:_2)?|scale_(?:weight|input)|comfy_quant)$")
#: The share of the modules that a base model has to know.
KNOWN = 0.9
#: Names of more models than these say nothing.
MOST_TITLES = 3


def title_model(names: Iterable[str]) -> str | None:
    """What the shipped base models have in common that know nearly all of these names; ``None`` if none does.

    ``Wan`` where one of several is meant, ``Anima or Cosmos Predict2`` where models of two projects are alike.
    """
    modules = Counter(sketch_name(LEAF.sub("", _START.sub("", name, count=1))) for name in names)
    total = modules.total()
    known = {base.title: _count_known(modules, (part.table for part in base.denoisers().values())) for base in BASES}
    most = max(known.values())
    if not total or most < KNOWN * total:
        return None
    common = _have_in_common([title for title, count in known.items() if count == most])
    return " or ".join(common) if len(common) <= MOST_TITLES else None


def _count_known(modules: Counter[str], tables: Iterable[str]) -> int:
    """How many of the modules the tables know, at most one of them."""
    return max(sum(count for sketch, count in modules.items() if sketch in sketch_table(table)) for table in tables)


def _have_in_common(titles: Collection[str]) -> list[str]:
    """For titles with the same first word, the words that all of them begin with."""
    groups: dict[str, list[list[str]]] = {}
    for title in titles:
        words = title.split()
        groups.setdefault(words[0], []).append(words)
    return [" ".join(_same_start(group)) for group in groups.values()]


def _same_start(group: list[list[str]]) -> list[str]:
    columns = takewhile(lambda words: len(set(words)) == 1, zip(*group, strict=False))
    return [words[0] for words in columns]
