"""What a base model is made of: component → module path → kind and weight shape, without its weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Literal, cast

ModuleKind = Literal["linear", "conv", "norm", "embedding", "parameter"]

#: A two-axis weight says linear or embedding only by its module's name; these are the embeddings of the field.
_EMBEDDINGS = {"token_embedding", "position_embedding", "embed_tokens", "embed", "shared", "relative_attention_bias",
               "cond_type_embed", "style_embedder", "embed_image_indicator"}  # fmt: skip
#: Integer buffers that older transformers saved; no module of their own.
BUFFERS = ("position_ids",)


@dataclass(frozen=True, slots=True)
class Module:
    """One module of a base model.

    Attributes:
        kind: what it is; a ``parameter`` is a bare one, under its own path.
        shape: of its weight, ``[out, in, *kernel]`` for linear and conv (``in`` per group).
        bias: whether it has one.
    """

    kind: ModuleKind
    shape: tuple[int, ...]
    bias: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """One component of a pipeline: class name, and modules by frozen path. Equal only to itself, so that it hashes."""

    class_name: str
    modules: Mapping[str, Module]


@dataclass(frozen=True, slots=True)
class Architecture:
    """A base model: its name, and its components by the pipeline's attribute name."""

    name: str
    components: Mapping[str, Model]
    prediction_type: str | None = None
    aliases: tuple[str, ...] = field(default=())


def modules_from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Module]:
    """Modules of a state dict, by the names and shapes of its tensors."""
    modules: dict[str, Module] = {}
    for name, shape in shapes.items():
        path, _, leaf = name.rpartition(".")
        tail = path.rpartition(".")[2]
        if name.endswith(BUFFERS):
            continue
        if path and leaf == "weight":
            modules[path] = Module(_kind(tail, shape), tuple(shape), f"{path}.bias" in shapes)
        elif not (path and leaf == "bias" and f"{path}.weight" in shapes):
            modules[name] = Module("parameter", tuple(shape))
    return modules


def _kind(tail: str, shape: tuple[int, ...]) -> ModuleKind:
    if tail in _EMBEDDINGS:
        return "embedding"
    return "norm" if len(shape) < 2 else "linear" if len(shape) == 2 else "conv"


def dump_modules(modules: Mapping[str, Module]) -> dict[str, list[str]]:
    """Modules as ``{"linear+bias 320x1280": [path patterns]}``; the inverse of `load_modules`."""
    groups: dict[str, list[str]] = {}
    for path, module in modules.items():
        bias = "+bias" if module.bias else ""
        groups.setdefault(f"{module.kind}{bias} {'x'.join(map(str, module.shape))}", []).append(path)
    return {key: fold(paths) for key, paths in groups.items()}


def load_modules(table: Mapping[str, list[str]]) -> dict[str, Module]:
    """Modules of a shipped table."""
    modules: dict[str, Module] = {}
    for key, patterns in table.items():
        kind, _, shape = key.partition(" ")
        kind, _, bias = kind.partition("+")
        module = Module(cast(ModuleKind, kind), tuple(int(size) for size in shape.split("x") if size), bool(bias))
        modules.update((path, module) for pattern in patterns for path in unfold(pattern))
    return modules


def fold(paths: Iterable[str]) -> list[str]:
    """Paths that differ in block numbers only, as patterns: ``layers.{0-11}.fc1``, ``blocks.{0,2}.proj``."""
    rows: list[tuple[str | frozenset[int], ...]] = [
        tuple(frozenset({int(part)}) if part.isdecimal() else part for part in path.split(".")) for path in paths
    ]
    for place in range(max(map(len, rows), default=0)):
        merged: dict[object, frozenset[int]] = {}
        kept: dict[object, tuple[str | frozenset[int], ...]] = {}
        for row in rows:
            numbers = row[place] if place < len(row) else None
            key: object = (row[:place], row[place + 1 :]) if isinstance(numbers, frozenset) else row
            kept[key] = row
            if isinstance(numbers, frozenset):
                merged[key] = merged.get(key, frozenset()) | numbers
        rows = [(*row[:place], merged[key], *row[place + 1 :]) if key in merged else row for key, row in kept.items()]
    return [".".join(part if isinstance(part, str) else _braces(part) for part in row) for row in rows]


def _braces(numbers: frozenset[int]) -> str:
    ordered = sorted(numbers)
    if len(ordered) == 1:
        return str(ordered[0])
    if ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"{{{ordered[0]}-{ordered[-1]}}}"
    return f"{{{','.join(map(str, ordered))}}}"


_BRACES = re.compile(r"\{([\d,-]+)\}")


def unfold(pattern: str) -> Iterator[str]:
    """Every path of a pattern of `fold`."""
    pieces = _BRACES.split(pattern)
    choices = [[piece] if index % 2 == 0 else _numbers(piece) for index, piece in enumerate(pieces)]
    return map("".join, product(*choices))


def _numbers(text: str) -> list[str]:
    if "-" in text:
        low, _, high = text.partition("-")
        return [str(number) for number in range(int(low), int(high) + 1)]
    return text.split(",")
