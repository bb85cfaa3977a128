"""Pictures → one adapter, in one call: what ``si-hub train`` does."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from si_hub import format as file_format
from si_hub.errors import UsageError
from si_hub.pipelines.bases import name_base
from si_hub.report.distillation import Distillation, ImageRow
from si_hub.report.progress import Progress
from si_hub.report.text import size_text
from si_hub.report.writing import write_report
from si_hub.storage.access import tell_access_errors
from si_hub.storage.files import atomic_file
from si_hub.training.order import TrainOrder, read_order
from si_hub.training.result import (
    PlannedTraining,
    Trained,
    count_text,
    last_loss,
    trained_document,
)
from si_hub.training.settings import shown_folder
from si_hub.words import label, option, rename_keywords
from si_hub.work.processes import is_main


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
    prompts: str | Path | Sequence[str] | None = None,
    report: str | Path | Sequence[str | Path] = (),
    trigger_words: Sequence[str] = (),
    title: str | None = None,
    author: str | None = None,
    license: str | None = None,
    dtype: str = "fp32",
    work: str | Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Trained:
    """Train an adapter on a folder of pictures, and write it.

    Started by ``accelerate launch``, the processes share the work, and the first of them writes. Killed, the same call
    goes on where it was, to the same bytes.

    Args:
        base: diffusers folder, or repository id in the local cache.
        pictures: a folder of pictures, with ``x.txt`` beside ``x.png`` or a ``metadata.jsonl`` or ``metadata.csv``.
        output: the file to write, or a folder that is to be shared as it is, with drawn pictures in it; by default
            ``PICTURES.styleinject.safetensors`` beside the pictures' folder.
        styles: one folder for each named branch, instead of ``pictures``; the folder's name is the branch's.
        caption: what pictures without a caption show.
        validation: a folder of pictures that nothing learns from: the step that is best on them is kept. Where there
            are styles, it holds a folder of each one's name.
        prompts: what is drawn while it is trained: a file of prompts, one a line, or prompts; by default captions.
        report: HTML or PNG files, of the loss and of what was drawn.
        trigger_words: kept in the file, besides the setting ``trigger``, which captions get, and names of styles.
        title, author, license: kept in the file.
        dtype: ``fp32``, ``fp16`` or ``bf16``, of the adapter's numbers.
        work: folder of unfinished work; by default beside the output, removed when the adapter is written.
        force: overwrite existing files.
        progress: called with (steps done, all of them).
        settings: everything of `si_hub.training.settings.TrainSettings`.

    Raises:
        UsageError: a setting that there is not or that makes no sense, pictures without captions.
        CannotRun: a base whose pipeline is not trained here.
        MissingFile, FileAccessError, FormatError: what cannot be read or written.
    """
    order = read_order(
        base, pictures, output, styles=styles, caption=caption, validation=validation, prompts=prompts, report=report,
        about={"title": title, "author": author, "license": license, "trigger_words": list(trigger_words)}, dtype=dtype,
        work=work, force=force, progress=progress, settings=settings,
    )  # fmt: skip
    with order.work.hold() if is_main() else nullcontext():
        return _run(order)


@tell_access_errors()
@rename_keywords(overwrite="force")
def plan_training(
    base: str | Path, pictures: str | Path | None = None, output: str | Path | None = None, **options: Any
) -> PlannedTraining:
    """What `train` would do with these arguments: everything is checked that can be known before any work.

    Raises:
        SiHubError: as `train`.
    """
    names = ("title", "author", "license", "trigger_words")
    about = {name: options.pop(name, None) for name in names}
    known = {
        name: options.pop(name, other)
        for name, other in {
            "styles": (), "caption": None, "validation": None, "prompts": None, "report": (), "dtype": "fp32",
            "work": None, "force": False, "progress": None,
        }.items()
    }  # fmt: skip
    order = read_order(base, pictures, output, about=about, settings=options, **known)
    told = {name: value for name, value in order.settings.document().items() if value not in ("", [])}
    return PlannedTraining(order.output, order.folder, order.counts, told)


def _run(order: TrainOrder) -> Trained:
    """The training itself; torch is loaded here."""
    from si_hub.training.accelerating import keep_accelerate
    from si_hub.training.session import Session
    from si_hub.work.processes import processes

    crew = processes(order.settings.device)
    if order.settings.precision == "fp16" and crew.device.type == "cpu":
        raise UsageError(
            "a CPU is far slower in fp16 than in float32", key=label("precision"), found="fp16",
            expected="no or bf16", hint=f"Or name another device with {option('device')}.",
        )  # fmt: skip
    with keep_accelerate():
        if crew.main:
            order.work.open(order.plan())
        crew.wait()
        session = Session(order, crew)
        course = session.train()
        result = None
        if crew.main:
            order.output.parent.mkdir(parents=True, exist_ok=True)
            result = _write(order, session, course)
        crew.wait()
        found = result or _told(order, session, course, order.output.stat().st_size, "")
        crew.wait()
        if crew.main:
            order.work.clear()
    return found


def _write(order: TrainOrder, session: Any, course: Any) -> Trained:
    """The file, the samples and the reports, of the first process."""
    settings, identity = order.settings, ""
    known = name_base(str(order.folder), session.pipeline)
    if settings.method == "styleinject":
        from si_hub import __version__

        training = trained_document(settings, course, order.counts, {
            "base": known.architecture, "rate": session.rate, "resolution": session.resolution,
        })  # fmt: skip
        said = [*order.about.get("trigger_words", []), *([settings.trigger] if settings.trigger else [])]
        about = {
            **order.about, "trigger_words": list(dict.fromkeys([*said, *order.branches])),
            "preview_prompts": list(order.prompts), "training": training,
            "provenance": {"family": "trained", "tool": f"si-hub {__version__}"},
        }  # fmt: skip
        adapter = session.pupil.adapter(known, {name: value for name, value in about.items() if value}, order.dtype)
        written = file_format.write(adapter, order.output, overwrite=order.force)
        identity, size = written.identity, written.size
    else:
        session.pupil.save_lora(order.output, order.work.folder / "lora", overwrite=order.force)
        size = order.output.stat().st_size
    result = _told(order, session, course, size, identity)
    if order.draws:
        session.draw_last(course)
        _share(order, session, course)
        for file in order.reports:
            write_report(_report(order, session, course, result), file, overwrite=order.force)
    return result


def _told(order: TrainOrder, session: Any, course: Any, size: int, identity: str) -> Trained:
    from si_hub.training.session import remarks_of

    settings = order.settings
    return Trained(
        order.output, size, order.folder, name_base(str(order.folder), session.pipeline).architecture, settings.method,
        settings.rank, session.rate, len(course.losses), order.counts, session.resolution, session.pupil.modules,
        session.pupil.numbers, course.best, course.error, bool(order.validation), last_loss(course), identity,
        (*session.notes, *remarks_of(course, order.work.kept)),
        (*order.reports, *([order.sheet] if order.sheet else [])),
    )  # fmt: skip


def _share(order: TrainOrder, session: Any, course: Any) -> None:
    """What the adapter as it was kept draws of each prompt, where the output is a folder that is shared."""
    if order.samples is None:
        return
    from si_hub.training.drawings import kept_title

    order.samples.mkdir(exist_ok=True)
    for place, picture in enumerate(session.drawings.pictures(kept_title(course))):
        with atomic_file(order.samples / f"{place + 1:02d}.png", overwrite=True) as out:
            picture.save(out, format="PNG")


def _report(order: TrainOrder, session: Any, course: Any, result: Trained) -> Distillation:
    """Loss and pictures by step, the base's beside them, as data."""
    settings, drawings = order.settings, session.drawings
    titles = drawings.titles(settings.steps)
    drawn = {title: drawings.pictures(title) for title in titles}
    facts = {
        "adapter": f"{result.path.name}, {size_text(result.size)}, {result.modules} modules",
        "base": f"{shown_folder(order.folder)} ({result.architecture})",
        "pictures": f"{count_text(result.pictures)}, at {result.resolution}",
        "method": f"{settings.method}, rank {settings.rank}, {settings.steps} steps of {settings.batch}",
        "error": f"{result.error:.4f} of the base's",
        **({"identity": result.identity} if result.identity else {}),
        **{f"note {number}": note for number, note in enumerate(result.notes, start=1)},
    }
    return Distillation(
        title=f"{result.path.name}: trained on {sum(result.pictures.values())} pictures",
        facts=facts, size=result.size, losses=course.losses, errors=course.errors,
        rows=[
            ImageRow(prompt, drawings.seed_for(place), {title: drawn[title][place] for title in titles})
            for place, (prompt, _) in enumerate(drawings.prompts)
        ],
    )  # fmt: skip
