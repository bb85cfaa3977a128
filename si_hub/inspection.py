"""What a file is, from its header alone: our adapters, everybody else's, checkpoints, and folders of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from si_hub import converters, format
from si_hub.adapter import Adapter, Component
from si_hub.architectures import Architecture, resolve
from si_hub.architectures.reach import out_of_reach
from si_hub.converters import Source
from si_hub.converters.outline import Holding
from si_hub.converters.pictures import Training, describe_training
from si_hub.converters.source import component_folders
from si_hub.errors import MissingFile, NotAnAdapter, SiHubError
from si_hub.foreign import join_safely, make_safe
from si_hub.hub.names import as_ref, is_repository
from si_hub.report.layers import count_alphas, count_ranks
from si_hub.report.text import reasons, size_text, tally
from si_hub.schedule import describe_schedule
from si_hub.storage.access import tell_access_errors
from si_hub.storage.header import SafetensorsFile, read_safetensors
from si_hub.tokens import conceal
from si_hub.words import label

if TYPE_CHECKING:
    from si_hub.hub.pull.headers import RemoteHeader

#: Lines of metadata for people; kohya writes about sixty keys.
METADATA_SHOWN = 80
#: Folders of pictures for people.
FOLDERS_SHOWN = 8
#: Tensors of a low-rank pair, of our layers and of others' modules: its rank and alpha say it all.
_PAIR = {"down.weight", "up.weight", "down", "up", "alpha"}
#: In place of the alphas of a repository's file: they lie among the data.
UNREAD = "not read"


@dataclass(frozen=True, slots=True)
class InspectedPart:
    """One component of an adapter: layers by rank and by alpha, and what else it carries."""

    modules: int
    ranks: dict[int, int]
    alphas: dict[str, int]
    leaves: dict[str, int]
    embeddings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "modules": self.modules,
            "ranks": {str(rank): count for rank, count in self.ranks.items()},
            "alphas": self.alphas,
            "tensors": self.leaves,
            "embeddings": list(self.embeddings),
        }


@dataclass(frozen=True, slots=True)
class Inspection:
    """What one file is.

    Attributes:
        path, size: the file and its bytes.
        kind: ``styleinject``, ``adapter`` (a foreign one), or what else it was recognised as.
        tensors, parameters: how many tensors, and numbers in them.
        dtypes: number of tensors by dtype.
        family, naming, base: of an adapter.
        candidates: base models between which nothing in it decides.
        parts: by component of the base model.
        metadata: the header's, as they are.
        document: of a StyleInject file.
        dropped: source tensors that a conversion would leave out, and why.
        out_of_reach: components that a pipeline lets it change only where the user names them.
        problem: why it could not be converted or loaded, as `SiHubError.as_dict`.
    """

    path: Path
    size: int
    kind: str
    tensors: int
    parameters: int
    dtypes: dict[str, int]
    family: str | None = None
    naming: str | None = None
    base: str | None = None
    candidates: tuple[str, ...] = ()
    parts: dict[str, InspectedPart] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    document: dict[str, Any] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    out_of_reach: tuple[str, ...] = ()
    problem: dict[str, object] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON data; what is empty is left out."""
        values = {
            "path": str(self.path), "size": self.size, "kind": self.kind, "family": self.family,
            "naming": self.naming, "base": self.base, "candidates": list(self.candidates),
            "tensors": self.tensors, "parameters": self.parameters,
            "dtypes": self.dtypes, "components": {name: part.as_dict() for name, part in self.parts.items()},
            "training": describe_training(self.metadata).as_dict(),
            "metadata": self.metadata, "document": self.document, "dropped": self.dropped,
            "out_of_reach": list(self.out_of_reach), "problem": self.problem,
        }  # fmt: skip
        return {key: value for key, value in values.items() if value not in (None, {}, [], "")}

    def as_text(self) -> str:
        """The result as lines for people."""
        base = self.base or " or ".join(self.candidates)
        what = " ".join(filter(None, [self.family, f"for {base}" if base else None]))
        rows = [
            ("kind", f"{self.kind}{f': {what}' if what else ''}"),
            ("size", f"{size_text(self.size)}, {self.tensors:,} tensors, {self.parameters:,} numbers"),
            ("dtype", tally(self.dtypes)),
            ("naming", self.naming),
            *((name, _part_text(part)) for name, part in self.parts.items()),
            *(("dropped", line) for line in reasons(self.dropped)),
            *(("by step", line) for line in describe_schedule(self.document)),
            ("beware", _reach_text(self.out_of_reach)),
            *_training_rows(describe_training(self.metadata)),
            *_metadata_rows(self.metadata),
            ("problem", _problem_text(self.problem)),
        ]
        lines = [f"  {make_safe(label, 200, keep_end=True):<16}{text}" for label, text in rows if text]
        return join_safely([make_safe(self.path, 500, keep_end=True), *lines])


def _training_rows(training: Training) -> list[tuple[str, str]]:
    """Words, pictures, tags and preview, for people."""
    rows = [("trigger words", ", ".join(training.triggers))]
    rows += [
        ("pictures", f"{name}: {count} pictures, {repeats} times each")
        for name, (repeats, count) in list(training.folders.items())[:FOLDERS_SHOWN]
    ]
    tags = ", ".join(f"{tag} {count}" for tag, count in training.tags.items())
    more = training.tag_count - len(training.tags)
    rows.append(("tags", f"{tags}{f', and {more} more' if more else ''}"))
    rows += [("preview", f"{one.kind or 'a picture'}, {size_text(one.size)} ({one.key})") for one in training.previews]
    return [(name, make_safe(text, 1200)) for name, text in rows if text]


@dataclass(frozen=True, slots=True)
class Validation:
    """A StyleInject file that was checked whole and found good."""

    path: Path
    size: int
    identity: str
    format_version: str
    tensors_sha256: str
    out_of_reach: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON data."""
        return {
            "path": str(self.path), "valid": True, "size": self.size, "format_version": self.format_version,
            "identity": self.identity, "tensors_sha256": self.tensors_sha256,
            **({"out_of_reach": list(self.out_of_reach)} if self.out_of_reach else {}),
        }  # fmt: skip

    def as_text(self) -> str:
        """The result as a line for people."""
        beyond = f"; {_reach_text(self.out_of_reach)}" if self.out_of_reach else ""
        where = make_safe(self.path, 500, keep_end=True)
        return f"{where}: valid, format {make_safe(self.format_version)}, identity {self.identity}{beyond}"


@dataclass(frozen=True, slots=True)
class Invalid:
    """A file that did not pass, and why."""

    path: Path
    error: SiHubError

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON data."""
        return {"path": str(self.path), "valid": False, **self.error.as_dict()}


@tell_access_errors()
def inspect(
    path: str | Path, *, base: str | Path | None = None, token: str | bool | None = None
) -> Inspection | list[Inspection]:
    """Say what a file is, or every safetensors file in a folder; tensor data are not read, torch is not imported.

    Args:
        path: a file, or a folder; or, where there is no such path, a repository, ``user/name`` or
            ``user/name@revision``, of which only headers are read.
        base: the base model to match foreign adapters against, as for `si_hub.convert`.
        token: for private and gated repositories.

    Raises:
        MissingFile: nothing there, or a folder without safetensors files.
        FormatError: a single file whose header breaks a rule; in a folder it becomes that file's ``problem``.
        UsageError, MissingFile, BaseMismatch: ``base`` is none, see `si_hub.architectures.resolve`.
    """
    token = conceal(token)
    known = None if base is None else resolve(base)
    if is_repository(path):
        from si_hub.hub.pull.headers import read_headers as look_at

        looks = [_describe_look(look, known) for look in look_at(as_ref(path), token=token)]
        return looks if len(looks) > 1 else looks[0]
    path = Path(path)
    if not path.is_dir():
        return inspect_file(path, known)
    files = sorted(path.rglob("*.safetensors"))
    if not files:
        raise MissingFile("the folder holds no .safetensors file", file=path, hint="Name a file.")
    joined = _join_folders(path)
    held = {part.path for source in joined for part in source.parts}
    singles = (_inspect_kindly(file, known) for file in files if file not in held)
    return [*(_foreign(source, known) for source in joined), *singles]


def _join_folders(path: Path) -> list[Source]:
    """The adapter that a folder of components' PEFT folders is; none where one of them is broken, as its file says."""
    try:
        return [converters.open_source(path)] if component_folders(path) else []
    except SiHubError:
        return []


@tell_access_errors()
def validate_file(path: str | Path) -> Validation:
    """Check one StyleInject file whole: header, document, layers, hash of the data, NaN and infinity.

    Raises:
        FormatError, ChecksumError, MissingFile, FileAccessError: what is wrong with it.
    """
    path = Path(path)
    adapter = format.validate(path)
    file = read_safetensors(path)
    document = format.read_document(file)
    return Validation(
        path,
        file.size,
        format.identity(document, file),
        document["format_version"],
        document["tensors_sha256"],
        tuple(out_of_reach(adapter.base_model.architecture, adapter.components)),
    )


def validate_all(paths: Iterable[str | Path]) -> list[Validation | Invalid]:
    """Check each file whole; one that fails does not keep the others from being checked."""

    def verdict(path: Path) -> Validation | Invalid:
        try:
            return validate_file(path)
        except SiHubError as error:
            return Invalid(path, error)

    return [verdict(Path(path)) for path in paths]


def inspect_file(path: Path, base: Architecture | None) -> Inspection:
    """One file; what it cannot be converted for is its ``problem``, a broken header is an error."""
    return inspect_header(read_safetensors(path), base)


def inspect_header(file: SafetensorsFile, base: Architecture | None) -> Inspection:
    """One file whose header has been read."""
    if format.is_styleinject(file):
        return _native(file)
    try:
        source = converters.source_of(file)
    except SiHubError as error:
        return _facts(file, "unknown", problem=error.as_dict())
    return _foreign(source, base)


def _describe_look(look: RemoteHeader, base: Architecture | None) -> Inspection:
    """A file of a repository, under its name there."""
    found = inspect_header(look.file, base)
    problem = {**found.problem, "file": look.name} if "file" in found.problem else found.problem
    parts = found.parts
    if look.unread:
        parts = {name: replace(part, alphas={UNREAD: sum(part.alphas.values())}) for name, part in parts.items()}
    return replace(found, path=Path(look.name), parts=parts, problem=problem)


def _foreign(source: Source, base: Architecture | None) -> Inspection:
    try:
        found = converters.outline(source, base)
    except NotAnAdapter as error:
        return _facts(source, error.kind, problem=error.as_dict())
    except SiHubError as error:
        return _facts(source, "unknown", problem=error.as_dict())
    [known, *others] = found.bases or (None,)
    return _facts(
        source,
        "adapter",
        family=found.family,
        naming=found.naming,
        base=None if others else known,
        candidates=found.bases if others else (),
        parts={name: _held_part(holding) for name, holding in found.holdings.items()},
        dropped=found.dropped,
        problem=found.problem.as_dict() if found.problem else {},
    )


def _held_part(holding: Holding) -> InspectedPart:
    slots = dict(holding.slots.most_common())
    ranks, alphas = dict(holding.ranks.most_common()), dict(holding.alphas.most_common())
    return InspectedPart(holding.modules, ranks, alphas, slots, tuple(holding.embeddings))


def _inspect_kindly(path: Path, base: Architecture | None) -> Inspection:
    try:
        return inspect_file(path, base)
    except SiHubError as error:
        size = path.stat().st_size if path.exists() else 0
        return Inspection(path, size, "unreadable", 0, 0, {}, problem=error.as_dict())


def _native(file: SafetensorsFile) -> Inspection:
    document = format.read_document(file)
    adapter = format.parse_adapter(file)
    return _facts(
        file,
        "styleinject",
        family=f"format {document['format_version']}",
        base=adapter.base_model.architecture,
        parts=_parts(adapter),
        document=document,
        out_of_reach=tuple(out_of_reach(adapter.base_model.architecture, adapter.components)),
    )


def _facts(file: SafetensorsFile | Source, kind: str, **more: Any) -> Inspection:
    tensors = file.tensors.values()
    dtypes = dict(Counter(tensor.dtype for tensor in tensors).most_common())
    metadata = {key: text for key, text in file.metadata.items() if key != "styleinject"}
    return Inspection(
        file.path, file.size, kind, len(tensors), sum(tensor.count for tensor in tensors), dtypes,
        metadata=metadata, **more,
    )  # fmt: skip


def _parts(adapter: Adapter) -> dict[str, InspectedPart]:
    return {name: _part(component) for name, component in adapter.components.items()}


def _part(component: Component) -> InspectedPart:
    layers = list(component.layers.values())
    return InspectedPart(
        len(layers),
        count_ranks(layer for layer in layers if layer.rank),
        count_alphas(layers),
        dict(Counter(leaf for layer in layers for leaf in layer.tensors).most_common()),
        tuple(component.embeddings),
    )


def _part_text(part: InspectedPart) -> str:
    rank = f", rank {tally(part.ranks)}, alpha {tally(part.alphas)}" if part.ranks else ""
    others = {leaf: count for leaf, count in part.leaves.items() if leaf not in _PAIR}
    more = f", {tally(others)}" if others else ""
    tokens = f", embeddings {', '.join(map(make_safe, part.embeddings))}" if part.embeddings else ""
    return f"{part.modules} modules{rank}{more}{tokens}"


def _metadata_rows(metadata: dict[str, str]) -> list[tuple[str, str]]:
    lines = [f"{make_safe(key)} = {make_safe(metadata[key])}" for key in sorted(metadata)[:METADATA_SHOWN]]
    if len(metadata) > METADATA_SHOWN:
        lines.append(f"... and {len(metadata) - METADATA_SHOWN} more, shown by {label('json', python='as_dict()')}")
    return [("" if index else "metadata", line) for index, line in enumerate(lines)]


def _reach_text(components: tuple[str, ...]) -> str:
    if not components:
        return ""
    named = ", ".join(map(make_safe, components))
    return f"changes {named}, neither denoiser nor text encoder: a pipeline loads it only by allow_components="


def _problem_text(problem: dict[str, object]) -> str:
    if not problem:
        return ""
    where = f"{make_safe(problem['key'], 300, keep_end=True)}: " if "key" in problem else ""
    hint = f". {make_safe(problem['hint'], 300, keep_end=True)}" if "hint" in problem else ""
    return f"{where}{make_safe(problem['problem'], 300)}{hint}"
