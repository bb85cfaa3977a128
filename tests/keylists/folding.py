"""Lists of tensor names, folded: names that differ in one word or number only are one pattern, ``blocks_{0-11}_fc1``.

A folded list holds ``"tensors": {".alpha float32; .lora_down.weight float32 4 320; ...": [pattern, ...]}``: endings,
dtypes and shapes of a module's tensors once for all modules that have the same. Folding loses nothing but the order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

Shape = tuple[int, ...]
Tensors = dict[str, tuple[str, Shape]]
#: One name's words, each a set of those that may stand there.
Row = tuple[frozenset[str], ...]

_WORD = re.compile(r"\d+|[A-Za-z]+|[^\dA-Za-z]+")
#: Where a tensor's name ends that of its module, if it has dots; elsewhere it is the first dot.
_LEAF = re.compile(r"\.(?=(lora|hada|lokr|oft|boft|ia3)[._])")
_BRACES = re.compile(r"\{([\w,-]+)\}")


def fold(names: Iterable[str]) -> list[str]:
    """Patterns of names, by merging the words at one place after the other."""
    rows: list[Row] = sorted({tuple(frozenset({word}) for word in _WORD.findall(name)) for name in names}, key=_text)
    for place in reversed(range(max(map(len, rows), default=0))):
        merged: dict[tuple[Row, Row], frozenset[str]] = {}
        others: list[Row] = []
        for row in rows:
            if place < len(row) and all(map(str.isalnum, row[place])):
                around = row[:place], row[place + 1 :]
                merged[around] = merged.get(around, frozenset()) | row[place]
            else:
                others.append(row)
        rows = [*others, *((*before, words, *after) for (before, after), words in merged.items())]
    return sorted(map(_text, rows))


def _text(row: Row) -> str:
    return "".join(_braces(words) if len(words) > 1 else next(iter(words)) for words in row)


def _braces(words: frozenset[str]) -> str:
    runs: list[list[int]] = []
    for number in sorted(int(word) for word in words if word.isdigit()):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    numbers = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return "{" + ",".join([*numbers, *sorted(word for word in words if not word.isdigit())]) + "}"


def unfold(pattern: str) -> Iterator[str]:
    """Every name of a pattern."""
    pieces = _BRACES.split(pattern)
    choices = [_words(piece) if place % 2 else [piece] for place, piece in enumerate(pieces)]
    return map("".join, product(*choices))


def _words(text: str) -> list[str]:
    found: list[str] = []
    for run in text.split(","):
        low, dash, high = run.partition("-")
        found += map(str, range(int(low), int(high) + 1)) if dash else [run]
    return found


def fold_tensors(tensors: Tensors) -> dict[str, list[str]]:
    """Patterns of modules by what each of them has.

    Raises:
        ValueError: the names do not come back: one holds braces, or a number that begins with 0.
    """
    modules: dict[str, list[str]] = {}
    for name, (dtype, shape) in tensors.items():
        found = _LEAF.search(name) or re.search(r"\.|$", name)
        assert found is not None
        at = found.start()
        modules.setdefault(name[:at], []).append(" ".join([name[at:], dtype, *map(str, shape)]))
    alike: dict[str, list[str]] = {}
    for module, leaves in modules.items():
        alike.setdefault("; ".join(sorted(leaves)), []).append(module)
    folded = {leaves: fold(names) for leaves, names in sorted(alike.items())}
    if unfold_tensors(folded) != tensors:
        raise ValueError("a name holds braces, or a number that begins with 0")
    return folded


def unfold_tensors(folded: Mapping[str, Iterable[str]]) -> Tensors:
    """Dtype and shape by name, names in order."""
    found: Tensors = {}
    for leaves, patterns in folded.items():
        modules = [module for pattern in patterns for module in unfold(pattern)]
        for leaf in leaves.split("; "):
            ending, dtype, *shape = leaf.split(" ")
            found |= {module + ending: (dtype, tuple(map(int, shape))) for module in modules}
    return dict(sorted(found.items()))


def write_list(path: Path, about: Mapping[str, Any], tensors: Tensors) -> None:
    """A folded list with what is said about it, a pattern a line."""
    text = json.dumps({**about, "tensors": fold_tensors(tensors)}, indent=0)
    path.write_text(text + "\n", encoding="utf-8")


def read_list(path: Path) -> tuple[dict[str, Any], Tensors]:
    """What is said about a list, and its tensors."""
    about = json.loads(path.read_text(encoding="utf-8"))
    return about, unfold_tensors(about.pop("tensors"))
