"""A training that has been asked for and checked: everything that can go wrong is told before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from si_hub.errors import FileAccessError, MissingFile, UsageError
from si_hub.report.progress import Progress
from si_hub.report.writing import check_report_file
from si_hub.storage.files import is_part
from si_hub.training.base import base_folder
from si_hub.training.gallery import Captioned, branch_of, captioned_pictures
from si_hub.training.settings import TrainSettings, shown_folder
from si_hub.words import label, option, switch
from si_hub.work import fingerprints
from si_hub.work.folder import Work
from si_hub.work.processes import choose_device

#: The adapter's name in a folder that is shared as it is, and what lies beside it there.
_IN_FOLDER, _SAMPLES, _SHEET = "styleinject.safetensors", "samples", "drawn.png"
#: Prompts that are drawn where none are named.
_DRAWN = 4
#: How often every picture is seen where no steps are said, and the fewest steps: what is seen more is learned by heart.
_PASSES, _FEWEST = 50, 100
#: Kinds of numbers of an adapter → safetensors' names.
_DTYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
#: Packages of trackers.
_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}


@dataclass(frozen=True, slots=True)
class TrainOrder:
    """A training that has been checked: everything but how the pipeline is run.

    Attributes:
        folder: of the base's pipeline.
        base: as it was named.
        pictures, validation: to learn from, to measure with.
        branches: names of the styles.
        prompts: to draw.
        output: the file.
        samples: the folder of drawn pictures beside it; ``None`` without one.
        reports: HTML or PNG files.
        about: what the file says besides: title, author, license, trigger words.
        dtype: safetensors' name of the adapter's numbers.
        settings: everything else.
        work: where unfinished work is.
        force: whether files are replaced.
        progress: called with (steps done, all of them).
    """

    folder: Path
    base: str
    pictures: Sequence[Captioned]
    validation: Sequence[Captioned]
    branches: tuple[str, ...]
    prompts: Sequence[str]
    output: Path
    samples: Path | None
    reports: tuple[Path, ...]
    about: Mapping[str, Any]
    dtype: str
    settings: TrainSettings
    work: Work
    force: bool
    progress: Progress | None

    @property
    def counts(self) -> dict[str, int]:
        """Pictures by style; under no name where there is one."""
        names = self.branches or ("",)
        return {name: sum(1 for one in self.pictures if (one.branch or "") == name) for name in names}

    @property
    def branch_count(self) -> int:
        """n: named branches, or those without names."""
        return len(self.branches) or self.settings.branches

    @property
    def draws(self) -> bool:
        """Whether anything is to be drawn."""
        return bool(self.reports or self.samples or self.settings.every or self.settings.trackers)

    @property
    def sheet(self) -> Path | None:
        """The picture of all that is drawn on the way; ``None`` where nothing is until the end."""
        if not self.settings.every:
            return None
        if self.samples:
            return self.output.with_name(_SHEET)
        return self.output.with_name(f"{self.output.stem.removesuffix('.styleinject')}-{_SHEET}")

    def plan(self) -> dict[str, Any]:
        """Everything that unfinished work depends on."""
        from si_hub import __version__

        files = [[one.file.name, one.caption, one.branch] for one in (*self.pictures, *self.validation)]
        return {
            "tool": __version__, "command": "train", "settings": self.settings.facts(),
            "base": fingerprints.model(self.folder), "pictures": files,
            "contents": fingerprints.contents([one.file for one in (*self.pictures, *self.validation)]),
            "validation": len(self.validation), "prompts": list(self.prompts),
        }  # fmt: skip


def read_order(
    base: str | Path,
    pictures: str | Path | None,
    output: str | Path | None,
    *,
    styles: Sequence[str | Path],
    caption: str | None,
    validation: str | Path | None,
    prompts: str | Path | Sequence[str] | None,
    report: str | Path | Sequence[str | Path],
    work: str | Path | None,
    force: bool,
    progress: Progress | None,
    about: Mapping[str, Any],
    dtype: str,
    settings: Mapping[str, Any],
) -> TrainOrder:
    """The order of `si_hub.train`'s arguments; everything that can be known to go wrong is told before any work."""
    if (pictures is None) == (not styles):
        raise UsageError(
            "name one folder of pictures, or one for each style", expected=f"PICTURES or {option('styles', 'FOLDER')}"
        )
    if styles and settings.get("router") is None and settings.get("method") in (None, "styleinject"):
        settings = {**settings, "router": "fixed"}
    if styles and settings.get("branches") not in (None, len(styles)):
        raise UsageError("each style is a branch", key=label("branches"), found=settings["branches"],
                         expected=f"nothing, or {len(styles)}")  # fmt: skip
    if styles and settings.get("method") in (None, "styleinject"):
        settings = {**settings, "branches": len(styles)}
    wish = TrainSettings.of(settings)
    if dtype not in _DTYPES:
        raise UsageError("is no kind of number", key=label("dtype"), expected=", ".join(_DTYPES), found=dtype)
    folder = base_folder(base)
    if wish.device is not None:
        choose_device(wish.device)
    branches = tuple(branch_of(one) for one in styles)
    if len(set(branches)) < len(branches):
        raise UsageError("two styles have one name", key=label("styles"), found=", ".join(branches),
                         hint="Give their folders names of their own.")  # fmt: skip
    if branches and wish.method != "styleinject":
        raise UsageError(f"the method {wish.method} has no branches", key=label("styles"))
    sources = [str(one) for one in styles or [pictures or ""]]
    found = [
        one
        for source, branch in zip(sources, branches or [None], strict=True)
        for one in captioned_pictures(source, caption, branch)
    ]
    if settings.get("steps") is None:
        wish = replace(wish, steps=fit_steps(len(found), wish))
    measured = _held_out(validation, caption, branches) if validation else []
    name = "-".join(branches) if branches else shown_folder(str(pictures))
    beside = Path(sources[0]).resolve().parent
    path, samples = _destination(output, beside / name, wish)
    check_target(path, force=force, given=[folder, *sources], into_folder=samples is not None)
    reports = (report,) if isinstance(report, str | Path) else tuple(report)
    for one in map(Path, reports):
        check_report_file(one, overwrite=force)
        if any(is_part(one, given) for given in (folder, *map(Path, sources), path)):
            raise FileAccessError("is what the report is made from", file=one, hint="Name another.")
    for tracker in wish.trackers:
        if find_spec(_PACKAGES[tracker]) is None:
            raise UsageError(
                f"needs {_PACKAGES[tracker]}, which is not installed", key=label("tracker", python="trackers"),
                found=tracker, hint=f"Install it: pip install {_PACKAGES[tracker]}.",
            )  # fmt: skip
    order = TrainOrder(
        folder, str(base), found, measured, branches, _prompts(prompts, found), path, samples,
        tuple(map(Path, reports)), {name: value for name, value in about.items() if value}, _DTYPES[dtype], wish,
        Work(Path(work) if work else path.with_name(f".{path.name}.work")), force, progress,
    )  # fmt: skip
    _check_sheet(order, sources)
    return order


def _check_sheet(order: TrainOrder, sources: Sequence[str]) -> None:
    """What is drawn on the way replaces nothing, and is no picture that is learned from when the training goes on."""
    sheet = order.sheet
    if sheet is None:
        return
    read: Sequence[str | Path] = (order.folder, *sources)
    if any(is_part(sheet.parent, one) for one in read):
        raise FileAccessError(
            "would lie among what is read", file=sheet,
            hint=f"It is what {option('every', 'N')} writes: name another place with {option('output')}.",
        )  # fmt: skip
    # What an interrupted training has drawn so far is its own.
    if sheet.exists() and not (order.force or order.work.folder.exists()):
        raise FileAccessError(
            "already exists", file=sheet,
            hint=f"It is what {option('every', 'N')} writes: move it, or overwrite it with {switch('force')}.",
        )  # fmt: skip


def _held_out(folder: str | Path, caption: str | None, branches: Sequence[str]) -> list[Captioned]:
    """Pictures to measure with: where there are styles, each one's own, in the folder of its name."""
    if not branches:
        return captioned_pictures(folder, caption)
    place = Path(folder)
    if place.is_dir() and (missing := [name for name in branches if not (place / name).is_dir()]):
        raise MissingFile(
            "has no folder for a style", file=place, expected=f"in it {', '.join(branches)}",
            found=f"no {', '.join(missing)}", hint="Put the unseen pictures of each style into a folder of its name.",
        )  # fmt: skip
    return [one for name in branches for one in captioned_pictures(place / name, caption, name)]


def fit_steps(pictures: int, settings: TrainSettings) -> int:
    """Steps where none are said: so many that every picture is seen `_PASSES` times, within bounds.

    Args:
        pictures: how many there are, of all styles together.
        settings: whose steps are the most.
    """
    return min(settings.steps, max(_FEWEST, -(-_PASSES * pictures // settings.batch)))


def _destination(output: str | Path | None, name: Path, settings: TrainSettings) -> tuple[Path, Path | None]:
    """The file to write, and the folder of pictures beside it where a folder was named."""
    if output is None:
        ending = ".styleinject.safetensors" if settings.method == "styleinject" else ".safetensors"
        return name.with_name(f"{name.name}{ending}"), None
    path = Path(output)
    if path.is_dir() or str(output).endswith("/"):
        return path / (_IN_FOLDER if settings.method == "styleinject" else "lora.safetensors"), path / _SAMPLES
    if path.suffix != ".safetensors":
        raise UsageError("is no name that loaders open", file=path, expected="a name that ends in .safetensors",
                         hint="A folder ends in a slash.")  # fmt: skip
    return path, None


def check_target(path: Path, *, force: bool, given: Sequence[str | Path], into_folder: bool) -> None:
    """Raise FileAccessError or MissingFile where a file cannot or must not be written.

    Args:
        path: of the file.
        force: whether it may be there.
        given: files and folders that are read.
        into_folder: whether its folder was named, and is made where it is not there.
    """
    if path.exists() and not force:
        raise FileAccessError(
            "already exists", file=path,
            hint=f"Overwrite it with {switch('force')}, or name another with {option('output')}.",
        )  # fmt: skip
    if path.exists() and any(is_part(path, one) for one in given):
        raise FileAccessError("is a file of what is read", file=path, hint=f"Name another with {option('output')}.")
    folder = path.absolute().parent
    if not folder.is_dir() and not into_folder:
        raise MissingFile("the folder does not exist", file=path.parent, hint="Create it first.")


def _prompts(told: str | Path | Sequence[str] | None, pictures: Sequence[Captioned]) -> list[str]:
    if told is None:
        captions = list(dict.fromkeys(one.caption or "" for one in pictures))
        return captions[:: max(1, len(captions) // _DRAWN)][:_DRAWN]
    if isinstance(told, str | Path):
        return read_prompt_lines(Path(told))
    if not told:
        raise UsageError("names no prompt", key=label("prompts"), hint="Leave it out to have captions drawn.")
    return [str(one) for one in told]


def read_prompt_lines(path: Path) -> list[str]:
    """The prompts of a text file, one a line; empty lines and those that begin with ``#`` do not count.

    Raises:
        MissingFile, UsageError: not there, or nothing in it.
    """
    if not path.is_file():
        raise MissingFile("no such file of prompts", file=path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError("is not a UTF-8 text", file=path, hint="Write one prompt a line.") from error
    found = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not found:
        raise UsageError("holds no prompt", file=path, hint="Write one prompt a line.")
    return found
