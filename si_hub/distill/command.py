"""Tuned models → one StyleInject file, in one call: what ``si-hub distill`` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from si_hub import format as file_format
from si_hub.distill.methods.registry import check_method, method_of
from si_hub.distill.pair.matching import Pair, match_all
from si_hub.distill.pair.model import ModelOnDisk, name_of
from si_hub.distill.report import Wish
from si_hub.distill.request import Request, stem_of
from si_hub.distill.result import Distilled, Outcome, distilled_adapter, doubts
from si_hub.distill.running.prompts import read_prompts as read_prompts
from si_hub.errors import CannotRun, FileAccessError, MissingFile, UsageError
from si_hub.report.layers import count_ranks
from si_hub.report.progress import Progress
from si_hub.storage.access import tell_access_errors
from si_hub.storage.files import is_part
from si_hub.storage.header import read_safetensors
from si_hub.words import label, option, rename_keywords, switch
from si_hub.work import fingerprints
from si_hub.work.folder import Work
from si_hub.work.processes import is_main

_SUFFIX = ".styleinject.safetensors"


@dataclass(frozen=True, slots=True)
class Destination:
    """Where an adapter is made: what a preview has none of.

    Attributes:
        output: the file that will be written.
        work: where unfinished parts are kept.
        force: whether the file may be there already.
    """

    output: Path
    work: Work
    force: bool


@tell_access_errors()
@rename_keywords(overwrite="force")
def distill(
    base: str | Path,
    *tuned: str | Path,
    output: str | Path | None = None,
    method: str | None = None,
    rank: int | None = None,
    size: int | str | None = None,
    fidelity: float | None = None,
    dtype: str | None = None,
    work: str | Path | None = None,
    seed: int = 0,
    prompts: str | Path | None = None,
    device: str | None = None,
    config: str | Path | None = None,
    embeddings: bool = False,
    trust_order: bool = False,
    report: str | Path | Sequence[str | Path] = (),
    pictures: int = 4,
    title: str | None = None,
    license: str | None = None,
    trigger_words: Sequence[str] = (),
    force: bool = False,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
    **options: Any,
) -> Distilled:
    """Make one small adapter of what distinguishes tuned models from their base, and write it.

    Started by ``accelerate launch``, the processes share the work, and the first of them writes.

    Args:
        base: diffusers folder, single-file checkpoint, or repository id in the local cache.
        tuned: one or several models tuned from it, each likewise.
        output: the file to write; by default beside the first tuned model.
        method: a name of `METHODS`; by default the best that can be run here.
        rank, size, fidelity: the budget, at most one of them: a rank for all layers, bytes or
            a text such as ``40MB``, a share from 0 to 1. Without one the size is chosen: the smallest that keeps 0.95,
            at most a twentieth of the tuned model's.
        dtype: ``int8`` (pairs of whole numbers, all else fp16), ``fp16``, ``bf16`` or ``fp32``, of the adapter's
            numbers; by default fp16 where that adds less than a hundredth to the error, else fp32.
        work: folder for unfinished work; by default beside the output, removed when the adapter is written.
        seed: of everything random.
        prompts: a file of prompts, one a line, for methods that run the pipeline.
        device: what to compute on, by torch's name: ``cpu``, ``cuda``, ``cuda:1``, ``xpu``, ``mps``; by default the
            machine's accelerator, or its CPU.
        config: of a base that is a single file: the pipeline folder, or repository in the local cache, that has the
            configurations and tokenizers which the file lacks; Stable Diffusion 1, 2 and XL need none.
        embeddings: carry changed token embeddings whole, with the method ``svd``.
        trust_order: base and tuned model are in the right order, whatever it looks like.
        report: HTML or PNG files to write a report to.
        pictures: prompts that the report shows, drawn by tuned model, adapter and base; 0 for none.
        title, license, trigger_words: kept in the file.
        force: overwrite an existing output.
        progress: called with (work done, all work).
        tell: called with a line of words as work goes on: what it will take, and what it is doing.
        options: what one method alone understands.

    Raises:
        UsageError: no tuned model, two budgets, a value that makes no sense.
        WrongPair, NotAModel: the models do not belong together, or one is none.
        CannotRun: a base that cannot be run, for what needs it.
        MissingFile, FileAccessError, FormatError: what cannot be read or written.
    """
    if method:
        check_method(method)
    request = Request.of(
        method, tuned, rank=rank, size=size, fidelity=fidelity, dtype=dtype, seed=seed, embeddings=embeddings,
        prompts=prompts, device=device, progress=progress, options=options, tell=tell,
        about={"title": title, "license": license, "trigger_words": list(trigger_words)},
    )  # fmt: skip
    path = output_of(Path(tuned[0]), Path(output) if output else None)
    if path.exists() and not force:
        raise FileAccessError(
            "already exists",
            file=path,
            hint=f"Overwrite it with {switch('force')}, or name another with {option('output')}.",
        )
    if not path.absolute().parent.is_dir():
        raise MissingFile("the folder does not exist", file=path.parent, hint="Create it first.")
    given = (base, *tuned, *(one for one in (prompts, request.training.images) if one))
    check_apart(path, (base, *tuned))
    if prompts:
        read_prompts(prompts)
    wish = Wish.of(report, pictures)
    given = (base, *tuned, *(one for one in (prompts, request.training.images) if one))
    wish.check(overwrite=force, given=(*given, path))
    pairs = match_all(base, tuned, trust_order=trust_order, config=config)
    name, reason = (method, "") if method else choose_method(pairs[0].base)
    if not method:
        request.check_for(name)
    if embeddings and name != "svd":
        raise UsageError(
            f"the method {name} weighs embeddings against all else that the size could hold", key=label("embeddings"),
            hint=f"Leave it out, or add {option('method', 'svd')}.",
        )  # fmt: skip
    if len(pairs) > 1 and name == "svd" and not method:
        raise CannotRun(reason, hint="Several tuned models take a base whose pipeline can be run: name its folder.")
    store = Work(Path(work) if work else path.with_name(f".{path.name}.work"))
    with store.hold() if is_main() else nullcontext():
        result = _make(pairs, request, Destination(path, store, force), name, reason)
    if is_main():
        wish.fulfil(result, pairs, request, overwrite=force)
    return result


def output_of(tuned: Path, given: Path | None) -> Path:
    """The file to write: as given, in the given folder, or beside the tuned model; here, where that is a repository."""
    name = f"{stem_of(tuned)}{_SUFFIX}"
    if given is None and tuned.exists():
        # Beside `.` is not in it.
        return (tuned if tuned.name == name_of(tuned) else tuned.resolve()).parent / name
    if given is None:
        return Path(name)
    return given / name if given.is_dir() else given


def check_apart(path: Path, models: Sequence[str | Path]) -> None:
    """Raise FileAccessError where the output would replace a model or a file of its folder, forced or not."""
    if any(is_part(path, model) for model in models):
        raise FileAccessError(
            "is one of the models, or a file of one", file=path, hint=f"Name another with {option('output')}."
        )


def _make(pairs: list[Pair], request: Request, goal: Destination, name: str, reason: str) -> Distilled:
    from si_hub.work.processes import processes

    run = method_of(name)
    crew = processes(request.device)
    if crew.main:
        goal.work.open(_plan(pairs, request, name))
    crew.wait()
    try:
        outcome = run(pairs, request, goal.work)
    except BaseException:
        goal.work.tidy()
        raise
    if crew.main:
        adapter = distilled_adapter(pairs, outcome, request.about)
        only = pairs[0].tuned if len(pairs) == 1 else None
        hashed = only.path if only and only.layout == "file" else None
        file_format.write(adapter, goal.output, overwrite=goal.force, hash_source=hashed, progress=request.progress)
    crew.wait()
    result = _result(pairs, goal, outcome, name, reason)
    crew.wait()
    if crew.main:
        goal.work.clear()
    return result


def choose_method(base: ModelOnDisk) -> tuple[str, str]:
    """The best closed form that can be had here, and why not a better one."""
    from si_hub.distill.running.assembling import why_not

    reason = why_not(base)
    return ("svd", f"{base.title} {reason}") if reason else ("calibrated", "")


def _result(pairs: list[Pair], goal: Destination, outcome: Outcome, name: str, reason: str) -> Distilled:
    file = read_safetensors(goal.output)
    document = file_format.read_document(file)
    layers = [layer for component in outcome.components.values() for layer in component.layers.values()]
    notes = tuple(dict.fromkeys(note for pair in pairs for note in pair.notes)) + tuple(outcome.notes)
    if goal.work.kept:
        notes += (f"went on from {goal.work.kept} finished parts of an interrupted run",)
    return Distilled(
        pairs[0].base.path, tuple(pair.tuned.path for pair in pairs), goal.output, file.size, name, reason,
        pairs[0].base.architecture.name,
        {part: len(component.layers) for part, component in outcome.components.items()},
        count_ranks(layers), outcome.error, outcome.carried, outcome.left_out, outcome.fidelity,
        document["tensors_sha256"], file_format.identity(document, file), notes, tuple(doubts(outcome.fidelity)),
        tuple(outcome.sizes),
    )  # fmt: skip


def _plan(pairs: list[Pair], request: Request, name: str) -> dict[str, Any]:
    """Everything that unfinished work depends on: another run may go on with it only if all of this is the same."""
    from si_hub import __version__

    models = [pairs[0].base, *(pair.tuned for pair in pairs)]
    images = request.training.images
    return {
        "tool": __version__, "method": name, "rank": request.rank, "size": request.size, "fidelity": request.fidelity,
        "dtype": request.dtype, "seed": request.seed, "embeddings": request.embeddings,
        "prompts": read_prompts(request.prompts) if request.prompts else None,
        "options": dict(request.said), "about": dict(request.about),
        "models": [fingerprints.model(model.path) for model in models],
        "config": fingerprints.model(configured) if (configured := pairs[0].base.configuration) else None,
        "images": fingerprints.contents(_pictures(Path(images))) if images else None,
    }  # fmt: skip


def _pictures(folder: Path) -> list[Path]:
    """The pictures that are learned from, each with its caption."""
    from si_hub.training.gallery import caption_file, pictures

    return [file for picture in pictures(folder) for file in (picture, caption_file(picture))]
