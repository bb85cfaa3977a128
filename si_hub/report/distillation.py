"""What became of a distillation, as plain data, and the files that show it to people.

`write_report` makes one PNG or one self-contained HTML page; a report of nothing but a curve is what ``--curve`` shows.
Drawing needs matplotlib (``pip install "si-hub[report]"``), which is imported when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from si_hub.errors import FileAccessError, MissingFile, UsageError
from si_hub.storage.files import atomic_file

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class LayerSpend:
    """What one layer of the adapter got.

    Attributes:
        component, module: where.
        kind: what the module is (``linear``, ``conv``, ``norm`` ...).
        rank: of the low-rank pair, 0 where there is none.
        size: bytes.
    """

    component: str
    module: str
    kind: str
    rank: int
    size: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """Squared error of the predicted noise for timesteps ``start`` … ``end`` (exclusive), divided by the base's."""

    start: int
    end: int
    error: float


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What one size would cost.

    Attributes:
        size: bytes of the file.
        predicted: share of the error left, as the budget counts it.
        measured: the same measured on held-out prompts, where it was.
    """

    size: int
    predicted: float
    measured: float | None = None


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One prompt and seed as each model draws it: title (teacher, adapter, base) → picture."""

    prompt: str
    seed: int
    images: Mapping[str, Image]


@dataclass(frozen=True, slots=True)
class Distillation:
    """Everything that a report shows; what is empty is not shown.

    Attributes:
        title: of the page.
        facts: lines of the head: base, tuned models, method ...
        size: bytes of the adapter.
        layers: in the model's order.
        error: over all timesteps.
        buckets: by timestep.
        carried: component → share of the difference that the adapter carries, 0 … 1.
        left_out: what is not in the adapter → why.
        curve: error by size.
        rows: pictures at equal seeds.
    """

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    size: int | None = None
    layers: Sequence[LayerSpend] = ()
    error: float | None = None
    buckets: Sequence[Bucket] = ()
    carried: Mapping[str, float] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    curve: Sequence[CurvePoint] = ()
    rows: Sequence[ImageRow] = ()


def _html(report: Distillation) -> bytes:
    from si_hub.report.page import page

    return page(report).encode()


def _png(report: Distillation) -> bytes:
    from si_hub.report.sheet import sheet

    return sheet(report)


#: How each kind of file is made.
WRITERS: dict[str, Callable[[Distillation], bytes]] = {".html": _html, ".png": _png}
_NEEDED = {"matplotlib": "matplotlib", "PIL": "pillow"}


def check(path: Path, *, overwrite: bool = False) -> None:
    """Everything that can be known to go wrong with a report's file before any work is done for it.

    Raises:
        UsageError: another suffix than `WRITERS` has, or matplotlib or pillow is not installed.
        MissingFile: its folder.
        FileAccessError: something in its place.
    """
    if path.suffix.lower() not in WRITERS:
        found = path.suffix or "no suffix"
        raise UsageError("is no kind of report", file=path, expected=" or ".join(WRITERS), found=found)
    if path.is_dir():
        raise FileAccessError("is a folder", file=path, hint="Name a file in it, such as report.html.")
    if path.exists() and not overwrite:
        raise FileAccessError("already exists", file=path, hint="Overwrite it with --force, or name another.")
    if not path.absolute().parent.is_dir():
        raise MissingFile("the folder does not exist", file=path.parent, hint="Create it first.")
    missing = [name for module, name in _NEEDED.items() if find_spec(module) is None]
    if missing:
        raise UsageError(
            f"a report needs {' and '.join(missing)}", file=path, hint='Install it: pip install "si-hub[report]".'
        )


def write_report(report: Distillation, path: Path, *, overwrite: bool = False) -> None:
    """Write a report whole or not at all.

    Raises:
        SiHubError: as `check`, or the file cannot be written.
    """
    check(path, overwrite=overwrite)
    content = WRITERS[path.suffix.lower()](report)
    with atomic_file(path, overwrite) as file:
        file.write(content)
