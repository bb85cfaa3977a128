"""Tuned models → one StyleInject file, in one call: what ``si-hub distill`` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from si_hub import format as file_format
from si_hub.adapter import Adapter, BaseModel
from si_hub.distill import stamps
from si_hub.distill.checks import check_paths
from si_hub.distill.methods import DTYPES, SEVERAL, Outcome, Request, check_method
from si_hub.distill.methods import method as method_of
from si_hub.distill.models import Model, check_there, open_model
from si_hub.distill.pairs import Pair, match
from si_hub.distill.processes import is_main
from si_hub.distill.prompts import read as read_prompts
from si_hub.distill.reporting import Wish
from si_hub.distill.single import check_singles
from si_hub.distill.work import Work
from si_hub.errors import CannotRun, FileAccessError, MissingFile, UsageError
from si_hub.report.layers import count_ranks
from si_hub.report.progress import Progress
from si_hub.report.text import reasons, size_text, tally
from si_hub.storage.header import read_safetensors

#: An adapter that leaves this much of the base's error has done next to nothing.
HARDLY = 0.95
_SUFFIX = ".styleinject.safetensors"


@dataclass(frozen=True, slots=True)
class Distilled:
    """A written distillation.

    Attributes:
        base, tuned: the models.
        path: the file written; ``size`` its bytes.
        method: how it was made; ``reason`` why this one, where it was not asked for.
        architecture: of the base.
        modules: number of layers by component.
        ranks: number of layers by rank; 0 are layers without a low-rank pair.
        error: the relative error that the document states.
        carried: share of the squared weight difference by component.
        left_out: what is not carried, and why.
        fidelity: as in the document.
        sha256, identity: of the written data section, of the adapter.
        notes: what the user should know.
        warnings: why the adapter may not be worth having.
    """

    base: Path
    tuned: tuple[Path, ...]
    path: Path
    size: int
    method: str
    reason: str
    architecture: str
    modules: dict[str, int]
    ranks: dict[int, int]
    error: float
    carried: dict[str, float]
    left_out: dict[str, str]
    fidelity: dict[str, Any]
    sha256: str
    identity: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON data."""
        return {
            "base": str(self.base), "tuned": [str(path) for path in self.tuned], "path": str(self.path),
            "size": self.size, "method": self.method, "reason": self.reason, "architecture": self.architecture,
            "modules": self.modules, "ranks": {str(rank): count for rank, count in self.ranks.items()},
            "error": self.error, "carried": self.carried, "left_out": self.left_out, "fidelity": self.fidelity,
            "tensors_sha256": self.sha256, "identity": self.identity, "notes": list(self.notes),
            "warnings": list(self.warnings),
        }  # fmt: skip

    def as_text(self) -> str:
        """The result as lines for people."""
        modules = ", ".join(f"{name} {count}" for name, count in self.modules.items())
        carried = ", ".join(f"{name} {share:.1%}" for name, share in self.carried.items())
        of = (
            "of the base's, of predicted noise on held-out prompts"
            if "error" in self.fidelity
            else "of the weights' difference"
        )
        return "\n".join(
            [
                str(self.path),
                f"  from     {', '.join(map(str, self.tuned))}, tuned from {self.base} ({self.architecture})",
                f"  method   {self.method}{f': {self.reason}' if self.reason else ''}",
                f"  modules  {sum(self.modules.values())} ({modules})",
                f"  rank     {tally(self.ranks) if len(self.ranks) < 6 else f'{min(self.ranks)} to {max(self.ranks)}'}",
                f"  size     {size_text(self.size)}",
                f"  error    {self.error:.4f} {of}",
                f"  carried  {carried}",
                f"  sha256   {self.sha256} (tensors)",
                f"  identity {self.identity}",
                *(f"  left out: {line}" for line in reasons(self.left_out)),
                *(f"  note     {note}" for note in self.notes),
            ]
        )


def distill(
    base: str | Path,
    *tuned: str | Path,
    output: str | Path | None = None,
    method: str | None = None,
    rank: int | None = None,
    size: int | None = None,
    fidelity: float | None = None,
    dtype: str = "fp32",
    work: str | Path | None = None,
    seed: int = 0,
    prompts: str | Path | None = None,
    embeddings: bool = False,
    trust_order: bool = False,
    report: str | Path | Sequence[str | Path] = (),
    pictures: int = 4,
    force: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Distilled:
    """Make one small adapter of what distinguishes tuned models from their base, and write it.

    Started by ``accelerate launch``, the processes share the work, and the first of them writes.

    Args:
        base: diffusers folder, single-file checkpoint, or repository id in the local cache.
        tuned: one or several models tuned from it, each likewise.
        output: the file to write; by default beside the first tuned model.
        method: a name of `METHODS`; by default the best that can be run here.
        rank, size, fidelity: the budget, at most one of them: a rank for all layers, bytes, a share from 0 to 1.
        dtype: ``fp32``, ``fp16`` or ``bf16``, of the adapter's numbers.
        work: folder for unfinished work; by default beside the output, removed when the adapter is written.
        seed: of everything random.
        prompts: a file of prompts, one a line, for methods that run the pipeline.
        embeddings: carry changed token embeddings whole, with the method ``svd``.
        trust_order: base and tuned model are in the right order, whatever it looks like.
        report: HTML or PNG files to write a report to.
        pictures: prompts that the report shows, drawn by tuned model, adapter and base; 0 for none.
        force: overwrite an existing output.
        progress: called with (work done, all work).
        options: what one method alone understands.

    Raises:
        UsageError: no tuned model, two budgets, a value that makes no sense.
        WrongPair, NotAModel: the models do not belong together, or one is none.
        CannotRun: a base that cannot be run, for what needs it.
        MissingFile, FileAccessError, FormatError: what cannot be read or written.
    """
    check_options(tuned, rank=rank, size=size, fidelity=fidelity, dtype=dtype)
    if method:
        check_method(method)
    for name in SEVERAL:
        if len(tuned) == 1 and name in options:
            raise UsageError("is for several tuned models", key=f"--{name}", hint="Leave it out.")
    path = output_of(Path(tuned[0]), Path(output) if output else None)
    if path.exists() and not force:
        raise FileAccessError("already exists", file=path, hint="Overwrite it with --force, or name another with -o.")
    if not path.absolute().parent.is_dir():
        raise MissingFile("the folder does not exist", file=path.parent, hint="Create it first.")
    check_apart(path, (base, *tuned))
    if prompts:
        read_prompts(prompts)
    wish = Wish.of(report, pictures, Path(prompts) if prompts else None, seed, options)
    wish.check(overwrite=force)
    pairs = matched(base, tuned, trust_order=trust_order)
    name, reason = (method, "") if method else choose(pairs[0].base)
    if embeddings and name != "svd":
        raise UsageError(
            f"the method {name} weighs embeddings against all else that the size could hold", key="--embeddings",
            hint="Leave it out, or add --method svd.",
        )  # fmt: skip
    if len(pairs) > 1 and name == "svd" and not method:
        raise CannotRun(reason, hint="Several tuned models take a base whose pipeline can be run: name its folder.")
    store = Work(Path(work) if work else path.with_name(f".{path.name}.work"))
    request = Request(
        path, store, rank, size, fidelity, DTYPES[dtype], seed, embeddings, Path(prompts) if prompts else None,
        tuple(_stem(Path(one)) for one in tuned) if len(tuned) > 1 else (), options, progress,
    )  # fmt: skip
    with store.held() if is_main() else nullcontext():
        result = _run(pairs, request, name, reason, force)
    if is_main():
        wish.fulfil(result, pairs, overwrite=force)
    return result


def output_of(tuned: Path, given: Path | None) -> Path:
    """The file to write: as given, in the given folder, or beside the tuned model; here, where that is a repository."""
    name = f"{_stem(tuned)}{_SUFFIX}"
    if given is None:
        return tuned.with_name(name) if tuned.exists() else Path(name)
    return given / name if given.is_dir() else given


def check_apart(path: Path, models: Sequence[str | Path]) -> None:
    """Raise FileAccessError where the output would replace a model or a file of its folder, forced or not."""
    for model in (Path(one) for one in models if path.exists() and Path(one).exists()):
        if path.samefile(model) or path.resolve().is_relative_to(model.resolve()):
            raise FileAccessError("is one of the models, or a file of one", file=path, hint="Name another with -o.")


def matched(base: str | Path, tuned: Sequence[str | Path], *, trust_order: bool = False) -> list[Pair]:
    """The base with each of the tuned models; a wrong pair is found before anything is done for the next."""
    for path in (base, *tuned):
        check_there(path)
    for one in tuned:
        check_paths(base, one, trust_order=trust_order)
    if Path(base).is_file():
        check_singles(Path(base), [path for path in map(Path, tuned) if path.is_file()])
    start = open_base(base, tuned)
    return [match(start, open_model(one, base=start), trust_order=trust_order) for one in tuned]


def open_base(base: str | Path, tuned: Sequence[str | Path]) -> Model:
    """The base; a single file that only a folder's configuration explains is read by that of a tuned folder."""
    folder = next((one for one in tuned if Path(one).is_dir()), None)
    return open_model(base, base=open_model(folder) if folder and Path(base).is_file() else None)


def _run(pairs: list[Pair], request: Request, name: str, reason: str, force: bool) -> Distilled:
    from si_hub.distill.processes import processes

    run = method_of(name)
    crew = processes()
    if crew.main:
        request.work.open(_plan(pairs, request, name))
    crew.wait()
    try:
        outcome = run(pairs, request)
    except BaseException:
        request.work.tidy()
        raise
    if crew.main:
        adapter = adapter_of(pairs, outcome)
        only = pairs[0].tuned if len(pairs) == 1 else None
        hashed = only.path if only and only.layout == "file" else None
        file_format.write(adapter, request.output, overwrite=force, hash_source=hashed, progress=request.progress)
    crew.wait()
    result = _result(pairs, request, outcome, name, reason)
    crew.wait()
    if crew.main:
        request.work.clear()
    return result


def choose(base: Model) -> tuple[str, str]:
    """The best closed form that can be had here, and why not a better one."""
    from si_hub.distill.running import why_not

    reason = why_not(base)
    return ("svd", f"{base.path} {reason}") if reason else ("calibrated", "")


def adapter_of(pairs: list[Pair], outcome: Outcome) -> Adapter:
    """An outcome as an adapter, with where it comes from."""
    from si_hub import __version__

    base, tuned = pairs[0].base, [pair.tuned for pair in pairs]
    kind = base.architecture
    prediction = base.prediction_type or next((m.prediction_type for m in tuned if m.prediction_type), None)
    provenance: dict[str, Any] = {"family": "distilled", "tool": f"si-hub {__version__}", "error": outcome.error}
    if len(tuned) == 1:
        provenance["source"] = _source(tuned[0])
    else:
        provenance["sources"] = [_source(model) for model in tuned]
    about = {"provenance": provenance, "fidelity": outcome.fidelity, "training": outcome.training}
    return Adapter(
        BaseModel(kind.name, base.repo_id, base.revision, prediction or kind.prediction_type),
        outcome.components,
        outcome.branches,
        about={key: value for key, value in about.items() if value},
    )


def _source(model: Model) -> dict[str, Any]:
    found = {"name": model.path.name, "repo_id": model.repo_id, "revision": model.revision,
             "size": model.path.stat().st_size if model.layout == "file" else None}  # fmt: skip
    return {key: value for key, value in found.items() if value is not None}


def _result(pairs: list[Pair], request: Request, outcome: Outcome, name: str, reason: str) -> Distilled:
    file = read_safetensors(request.output)
    document = file_format.read_document(file)
    layers = [layer for component in outcome.components.values() for layer in component.layers.values()]
    notes = tuple(dict.fromkeys(note for pair in pairs for note in pair.notes)) + tuple(outcome.notes)
    if request.work.kept:
        notes += (f"went on from {request.work.kept} finished parts of an interrupted run",)
    return Distilled(
        pairs[0].base.path, tuple(pair.tuned.path for pair in pairs), request.output, file.size, name, reason,
        pairs[0].base.architecture.name,
        {part: len(component.layers) for part, component in outcome.components.items()},
        count_ranks(layers), outcome.error, outcome.carried, outcome.left_out, outcome.fidelity,
        document["tensors_sha256"], file_format.identity(document, file), notes, tuple(doubts(outcome.fidelity)),
    )  # fmt: skip


def doubts(fidelity: Mapping[str, Any]) -> list[str]:
    """Warnings about an adapter that measurements show to be no better than the base, as a whole or in a branch.

    Args:
        fidelity: of its document; without an error in it nothing was measured, and nothing is said.
    """
    branches: Mapping[str, float] = fidelity.get("branches", {})
    found = {"the adapter": fidelity.get("error", 0.0), **{f"the branch {name}": e for name, e in branches.items()}}
    way_out = "take a larger --size or --rank" + ("" if branches else "; --curve shows what each size leaves")
    return [
        f"{what} is {'worse than' if error > 1.0 else 'hardly better than'} the base, of whose error it leaves "
        f"{error:.4f}: {way_out}"
        for what, error in found.items()
        if error >= HARDLY
    ]


def check_options(
    tuned: tuple[str | Path, ...],
    *,
    rank: int | None = None,
    size: int | None = None,
    fidelity: float | None = None,
    dtype: str = "fp32",
) -> None:
    """Raise UsageError for a call that makes no sense."""
    if not tuned:
        raise UsageError("name at least one tuned model")
    if sum(value is not None for value in (rank, size, fidelity)) > 1:
        raise UsageError("--rank, --size and --fidelity are three ways to say one thing", hint="Give one of them.")
    if rank is not None and rank < 1:
        raise UsageError("a rank is at least 1", key="--rank", found=rank)
    if fidelity is not None and not 0 < fidelity < 1:
        raise UsageError("a fidelity lies between 0 and 1", key="--fidelity", found=fidelity)
    if dtype not in DTYPES:
        raise UsageError("no such dtype", key="--dtype", expected=", ".join(DTYPES), found=dtype)


def _stem(path: Path) -> str:
    name = path.name or path.resolve().name
    return Path(name).stem if path.is_file() else name


def _plan(pairs: list[Pair], request: Request, name: str) -> dict[str, Any]:
    """Everything that unfinished work depends on: another run may go on with it only if all of this is the same."""
    from si_hub import __version__

    models = [pairs[0].base, *(pair.tuned for pair in pairs)]
    images = request.options.get("images")
    return {
        "tool": __version__, "method": name, "rank": request.rank, "size": request.size, "fidelity": request.fidelity,
        "dtype": request.dtype, "seed": request.seed, "embeddings": request.embeddings,
        "prompts": read_prompts(request.prompts) if request.prompts else None,
        "options": {key: str(value) for key, value in sorted(request.options.items())},
        "models": [stamps.model(model.path) for model in models],
        "images": stamps.contents(_pictures(Path(str(images)))) if images else None,
    }  # fmt: skip


def _pictures(folder: Path) -> list[Path]:
    """The pictures that are learned from, each with its caption."""
    from si_hub.distill.images import caption_file, pictures

    return [file for picture in pictures(folder) for file in (picture, caption_file(picture))]
