"""`train`: a base model and a folder of pictures become an adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from si_hub import format as file_format
from si_hub.adapter import Adapter, BaseModel
from si_hub.distill.pair.matching import Pair
from si_hub.distill.pair.model import ModelOnDisk
from si_hub.distill.pair.opening import open_model
from si_hub.distill.running.runner import Runner
from si_hub.distill.running.student import Student
from si_hub.distill.training.loop import Course, Recipe, run_loop
from si_hub.distill.training.options import (
    accelerator_of,
    checkpoint_activations,
    keep_accelerate,
    round_losses,
    show_of,
)
from si_hub.distill.work import fingerprints
from si_hub.distill.work.folder import Work
from si_hub.distill.work.processes import is_main, processes
from si_hub.errors import FileAccessError, MissingFile, UsageError
from si_hub.foreign import join_safely
from si_hub.report.text import size_text
from si_hub.storage.access import tell_access_errors
from si_hub.storage.files import is_part
from si_hub.storage.header import read_safetensors
from si_hub.training.dataset import Example, name_styles, read_examples
from si_hub.training.settings import Settings
from si_hub.training.start import start_components
from si_hub.training.task import KeptText, PictureTask
from si_hub.words import label, option, rename_keywords, switch

_SUFFIX = ".styleinject.safetensors"


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained adapter.

    Attributes:
        base, path: the base model and the file written.
        size: its bytes.
        pictures: how many it learned from.
        branches: names of its styles, where folders are styles.
        steps: how many were taken.
        error: squared error of the prediction, with noise of its own, in units of the base's.
        unseen: whether that is on pictures of their own.
        modules: layers by component.
        identity: of the adapter.
        notes: what the user should know.
    """

    base: Path
    path: Path
    size: int
    pictures: int
    branches: tuple[str, ...]
    steps: int
    error: float
    unseen: bool
    modules: dict[str, int]
    identity: str
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON data."""
        return {
            "base": str(self.base), "path": str(self.path), "size": self.size, "pictures": self.pictures,
            "branches": list(self.branches), "steps": self.steps, "error": self.error, "unseen": self.unseen,
            "modules": self.modules, "identity": self.identity, "notes": list(self.notes),
        }  # fmt: skip

    def as_text(self) -> str:
        """The result as lines for people."""
        modules = ", ".join(f"{name} {count}" for name, count in self.modules.items())
        seen = "unseen" if self.unseen else "its"
        return join_safely([
            str(self.path),
            f"  base     {self.base}",
            f"  learned  {self.pictures} pictures, {self.steps} steps",
            *([f"  styles   {', '.join(self.branches)}"] if self.branches else []),
            f"  modules  {sum(self.modules.values())} ({modules})",
            f"  size     {size_text(self.size)}",
            f"  error    {self.error:.4f} of the base's, on {seen} pictures with other noise",
            f"  identity {self.identity}",
            *(f"  note     {note}" for note in self.notes),
        ])  # fmt: skip


@tell_access_errors()
@rename_keywords(overwrite="force")
def train(
    base: str | Path,
    pictures: str | Path | None = None,
    output: str | Path | None = None,
    *,
    styles: Sequence[str | Path] = (),
    caption: str | None = None,
    validation: str | Path | None = None,
    trigger_words: Sequence[str] = (),
    title: str | None = None,
    author: str | None = None,
    license: str | None = None,
    dtype: str = "fp32",
    device: str | None = None,
    work: str | Path | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> Trained:
    """Train a StyleInject adapter from pictures with captions, and write it.

    Interrupted, the same call goes on where it was. Started by ``accelerate launch``, the processes share every step.

    Args:
        base: diffusers folder of the base model's pipeline, or repository id in the local cache.
        pictures: folder of pictures; captions are texts beside them, rows of ``metadata.jsonl`` or ``metadata.csv``, or
            ``caption``.
        output: the file to write; by default ``PICTURES.styleinject.safetensors`` beside the folder.
        styles: in the place of ``pictures``, one folder a style: each becomes a named branch, which learns from its
            own pictures alone, and all share one ``up``.
        caption: of the pictures that have none of their own.
        validation: folder of pictures that are measured and never learned from: the best moving average on them is
            kept. Of the first style, where folders are styles.
        trigger_words, title, author, license: kept in the file.
        dtype: ``fp32``, ``fp16`` or ``bf16``, of the adapter's numbers.
        device: by torch's name; by default the machine's accelerator, or its CPU.
        work: folder for unfinished work; by default beside the output, removed when the adapter is written.
        force: overwrite an existing output.
        progress: called with (steps done, all of them).
        settings: fields of `si_hub.training.settings.Settings`.

    Raises:
        UsageError: a setting that makes no sense, a picture without a caption.
        CannotRun: a base whose pipeline cannot be run, or makes its latents in a way that is not known.
        MissingFile, FormatError, FileAccessError: what cannot be read or written.
    """
    folders = [Path(one) for one in styles] or ([Path(pictures)] if pictures else [])
    if not folders or (styles and pictures):
        raise UsageError("say one of them", key=f"{label('pictures')}, {label('styles')}",
                         hint="One folder of pictures, or a folder for each style")  # fmt: skip
    branches = name_styles(folders) if styles else ()
    wish = Settings.of(settings)
    if branches:
        if wish.branches not in {1, len(branches)}:
            raise UsageError("is how many folders of styles there are", key=label("branches"), expected=len(branches),
                             found=wish.branches)  # fmt: skip
        wish = replace(wish, branches=len(branches))
    if dtype not in _DTYPES:
        raise UsageError("is no kind of number", key=label("dtype"), expected=", ".join(_DTYPES), found=dtype)
    path = _output_of(folders[0], Path(output) if output else None)
    _check_output(path, base, force=force)
    examples = read_examples(folders, caption)
    measured = read_examples([validation], caption) if validation else []
    model = open_model(base)
    store = Work(Path(work) if work else path.with_name(f".{path.name}.work"))
    about = {"title": title, "author": author, "license": license, "trigger_words": list(trigger_words)}
    with store.hold() if is_main() else nullcontext():
        course, adapter = _train(model, examples, measured, branches, wish, dtype, device, store, about, progress)
        crew = processes(device)
        if crew.main:
            file_format.write(adapter, path, overwrite=force)
        crew.wait()
        if crew.main:
            store.clear()
    written, opened = file_format.read(path), read_safetensors(path)
    notes = [f"training stopped early: {course.stopped}"] if course.stopped else []
    if not course.best:
        notes.append(f"no step was better than the start, which is kept: try a lower rate, {option('rate', 'X')}")
    return Trained(
        model.path, path, path.stat().st_size, len(examples), branches, len(course.losses), course.error,
        bool(measured), {name: len(component.layers) for name, component in written.components.items()},
        file_format.identity(file_format.read_document(opened), opened), tuple(notes),
    )  # fmt: skip


_DTYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}


def _output_of(folder: Path, given: Path | None) -> Path:
    name = f"{folder.resolve().name}{_SUFFIX}"
    if given is None:
        return folder.resolve().parent / name
    return given / name if given.is_dir() else given


def _check_output(path: Path, base: str | Path, *, force: bool) -> None:
    if path.exists() and not force:
        hint = f"Overwrite it with {switch('force')}, or name another with {option('output')}."
        raise FileAccessError("already exists", file=path, hint=hint)
    if not path.absolute().parent.is_dir():
        raise MissingFile("the folder does not exist", file=path.parent, hint="Create it first.")
    if is_part(path, base):
        hint = f"Name another with {option('output')}."
        raise FileAccessError("is the base model, or a file of it", file=path, hint=hint)


@keep_accelerate()
def _train(
    model: ModelOnDisk,
    examples: Sequence[Example],
    measured: Sequence[Example],
    branches: tuple[str, ...],
    settings: Settings,
    dtype: str,
    device: str | None,
    store: Work,
    about: Mapping[str, Any],
    progress: Callable[[int, int], None] | None,
) -> tuple[Course, Adapter]:
    crew = processes(device)
    accelerator = accelerator_of(settings.precision, crew.device)
    if crew.main:
        store.open(_plan(model, (*examples, *measured), settings))
    crew.wait()
    sides = {} if settings.resolution is None else {"height": settings.resolution, "width": settings.resolution}
    kind = Runner if settings.text_encoder else KeptText
    runner = kind(Pair(model, model, []), device=crew.device, options=sides)
    start = start_components(model.architecture, model.denoiser, settings, settings.seed, named=bool(branches))
    student = Student(runner, start, branches)
    try:
        task = PictureTask.prepare(runner, student, settings, examples, measured, branches)
        recipe = Recipe(
            settings.steps, settings.batch, settings.part, settings.rate, settings.average,
            save_every=settings.save_every,
        )  # fmt: skip
        with checkpoint_activations(runner.denoiser, settings.checkpointing):
            course = run_loop(
                task, recipe, accelerator, checkpoint=store.folder / "training.pt", show=show_of(progress)
            )
        if branches:
            student.choose(None)
        components = student.components(_DTYPES[dtype])
    except BaseException:
        store.tidy()
        raise
    said = {key: value for key, value in about.items() if value}
    said["training"] = _document(examples, settings, course)
    prediction = model.prediction_type or model.architecture.prediction_type
    base = BaseModel(model.architecture.name, model.repo_id, model.revision, prediction)
    return course, Adapter(base, components, branches, said)


def _document(examples: Sequence[Example], settings: Settings, course: Course) -> dict[str, Any]:
    """The ``training`` field: how, with what, and how it went; no place of this machine."""
    losses, errors = round_losses(course)
    stopped = {} if course.stopped is None else {"stopped": course.stopped}
    return {
        "pictures": len(examples), **settings.said(), "losses": losses, "errors": errors, "kept_step": course.best,
        "versions": {name: version(name) for name in ("torch", "diffusers", "si-hub")}, **stopped,
    }  # fmt: skip


def _plan(model: ModelOnDisk, examples: Sequence[Example], settings: Settings) -> dict[str, Any]:
    """Everything that unfinished work depends on."""
    from dataclasses import asdict

    from si_hub import __version__

    kept = {name: value for name, value in asdict(settings).items() if name != "save_every"}
    return {
        "tool": __version__, "command": "train", "settings": kept,
        "examples": [[one.caption, one.style] for one in examples],
        "pictures": fingerprints.contents([one.file for one in examples]), "base": fingerprints.model(model.path),
    }  # fmt: skip
