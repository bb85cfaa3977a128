"""A foreign adapter file → a StyleInject file, in one call: what ``si-hub convert`` does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from si_hub import converters
from si_hub.architectures import Architecture
from si_hub.basemodel import find_base
from si_hub.compression import Compression, check_options, compress
from si_hub.converters import Report
from si_hub.converters.pairing import order_pair
from si_hub.converters.source import CONFIG_NAME, STYLEINJECT_SUFFIX
from si_hub.distill.pair.opening import find_cached
from si_hub.errors import FileAccessError, FormatError, LeafDtypeError, NotFinite, UsageError
from si_hub.foreign import join_safely
from si_hub.format import writer
from si_hub.format.layers import EMBEDDING, split_name
from si_hub.hub.names import as_ref, is_repository, parse_ref
from si_hub.report.layers import count_alphas, count_ranks
from si_hub.report.text import reasons, size_bytes, size_text, tally
from si_hub.storage.access import tell_access_errors
from si_hub.storage.files import is_part
from si_hub.storage.tensors import Span, Tensor
from si_hub.tokens import conceal
from si_hub.words import label, option, rename_keywords, switch


@dataclass(frozen=True, slots=True)
class Converted:
    """A written conversion.

    Attributes:
        source, path: the file read and the file written.
        source_size, size: their bytes.
        base: name of the base model.
        family, naming: what the source was.
        modules: number of layers by component.
        ranks: number of layers by rank; 0 are layers without a low-rank pair.
        alphas: number of layers by alpha; ``"rank"`` where alpha is the rank.
        source_sha256: of the source file; none where there are several, whose hashes the document has.
        sha256: of the written data section.
        identity: of the adapter.
        report: every source tensor's fate.
        exact: as the document says: it acts as the source does; never of a part of it.
        compression: the measured errors of layers that were made smaller.
    """

    source: Path
    path: Path
    source_size: int
    size: int
    base: str
    family: str
    naming: str
    modules: dict[str, int]
    ranks: dict[int, int]
    alphas: dict[str, int]
    source_sha256: str | None
    sha256: str
    identity: str
    report: Report
    exact: bool
    compression: Compression = field(default_factory=Compression)

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON data."""
        return {
            "source": str(self.source), "path": str(self.path), "source_size": self.source_size, "size": self.size,
            "base": self.base, "family": self.family, "naming": self.naming, "modules": self.modules,
            "ranks": {str(rank): count for rank, count in self.ranks.items()}, "alphas": self.alphas,
            "source_sha256": self.source_sha256, "tensors_sha256": self.sha256, "identity": self.identity,
            "exact": self.exact, **self.report.as_dict(), **self.compression.as_dict(),
        }  # fmt: skip

    def as_text(self) -> str:
        """The result as lines for people."""
        modules = ", ".join(f"{name} {count}" for name, count in self.modules.items())
        return join_safely(
            [
                str(self.path),
                f"  from     {self.source}: {self.family} for {self.base} ({self.naming})",
                f"  modules  {sum(self.modules.values())} ({modules})",
                f"  rank     {tally(self.ranks)}",
                f"  alpha    {tally(self.alphas)}",
                f"  size     {size_text(self.source_size)} -> {size_text(self.size)}{', exact' if self.exact else ''}",
                f"  sha256   {self.sha256} (tensors)",
                f"  identity {self.identity}",
                *self.compression.as_lines(),
                *(self.report.check.as_lines() if self.report.check else ()),
                *(f"  dropped: {line}" for line in reasons(self.report.dropped)),
                *(f"  metadata left out: {line}" for line in reasons(self.report.left_out)),
                *(f"  note     {note}" for note in self.report.notes),
            ]
        )


def default_output(source: Path) -> Path:
    """Beside the source: ``lora.safetensors`` → ``lora.styleinject.safetensors``; inside a folder, under its name."""
    if source.is_dir():
        return source / f"{source.resolve().name}{STYLEINJECT_SUFFIX}"
    return source.with_name(f"{source.stem}{STYLEINJECT_SUFFIX}")


def repository_output(source: Path) -> Path:
    """In the current folder: ``user/lora@v1`` → ``lora.styleinject.safetensors``."""
    return Path(f"{parse_ref(as_ref(source)).repo_id.rpartition('/')[2]}{STYLEINJECT_SUFFIX}")


@tell_access_errors()
@rename_keywords(overwrite="force")
def convert(
    source: str | Path | Sequence[str | Path],
    output: str | Path | None = None,
    *,
    base: str | Path | Architecture | None = None,
    force: bool = False,
    allow_partial: bool = False,
    allow_large: bool = False,
    check: bool = False,
    denoiser: str | None = None,
    rank: int | None = None,
    tolerance: float | None = None,
    size: int | str | None = None,
    weight_name: str | None = None,
    token: str | bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Converted:
    """Convert an adapter file, folder or repository to the StyleInject format, exactly, and write it.

    Args:
        source: a safetensors file, a PEFT folder or a parent of such, or a diffusers LoRA folder; or, where there is
            no such path, a repository of one, ``user/name`` or ``user/name@revision``, which is fetched to the cache.
            Two files are one adapter for the two denoisers of a base model, high noise first, unless their names
            say which is which.
        output: the file to write, or a folder for it, which is there or ends in a slash; by default beside the source,
            for a repository under its name in the current folder.
        base: name, folder or checkpoint of the base model, or a repository in the local cache; found by names and
            shapes where it is not given. DoRA, OFT and others are functions of its weights, which a name has not.
        force: overwrite an existing output.
        allow_partial: convert what fits and name what was left out, instead of refusing.
        denoiser: the component that takes what is for a denoiser, of a base model that has two alike.
        allow_large: write an exact form of more than four times the source's numbers, instead of refusing.
        check: recompute every layer in float64 from the source and from the result; the largest relative error is in
            the result and in the document.
        rank, tolerance, size: make it smaller, with a measured error: the rank of every layer at most, the relative
            error of every layer at most, or bytes of the file at most, such as ``"40MB"``.
        weight_name: which file of a repository.
        token: for private and gated repositories.
        progress: called with (bytes done, bytes in all).

    Raises:
        FileAccessError: the output exists, or is the source.
        SiHubError: everything of `si_hub.converters.convert_source`, `si_hub.format.write` and `si_hub.hub.pull.pull`.
    """
    smaller = check_options(rank, tolerance, size := _as_bytes(size))
    if check and smaller:
        raise UsageError("what is made smaller has its errors measured layer by layer anyway", key=label("check"))
    pair = None if isinstance(source, str | Path) else order_pair(source)
    source = Path(source) if isinstance(source, str | Path) else order_pair(source)[0]
    remote, token = pair is None and is_repository(source), conceal(token)
    usual = repository_output(source) if remote else default_output(source)
    path = usual if output is None else Path(output)
    if output is not None and (path.is_dir() or str(output).endswith("/")):
        path /= usual.name
    if path.exists() and not force:
        raise FileAccessError(
            "already exists",
            file=path,
            hint=f"Overwrite it with {switch('force')}, or name another with {option('output')}.",
        )
    if remote:
        from si_hub.hub.pull.fetching import fetch_adapter

        fetched = fetch_adapter(
            as_ref(source), want="foreign", weight_name=weight_name, token=token, progress=progress
        )  # fmt: skip
        source, opened = Path(fetched.lock, fetched.name), fetched.path
    elif weight_name is not None:
        raise UsageError("names a file of a repository", key=label("weight_name"), hint="Name the file itself.")
    else:
        opened = source
    architecture, weights = find_base(base)
    wanted: dict[str, Any] = {
        "base": architecture, "weights": weights, "allow_partial": allow_partial, "check": check and not smaller,
        "allow_large": allow_large or smaller,
    }  # fmt: skip
    found = (
        converters.convert_pair(pair, **wanted) if pair
        else converters.convert_source(converters.open_source(opened), denoiser=denoiser, **wanted)
    )  # fmt: skip
    cost = compress(found, rank=rank, tolerance=tolerance, size=size) if smaller else Compression()
    parts = found.source.parts
    _check_apart(path, parts or (found.source,), base)
    for entry, part in zip(found.adapter.about["provenance"].get("sources", ()), parts, strict=True):
        entry["sha256"] = _sha256(part)
    hashed = None if parts else found.source.path
    if str(output).endswith("/"):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        written = writer.write(found.adapter, path, overwrite=force, hash_source=hashed, progress=progress)
    except (NotFinite, LeafDtypeError) as error:
        raise in_source_words(error, found) from error
    components = found.adapter.components
    layers = [layer for component in components.values() for layer in component.layers.values()]
    return Converted(
        source, path, found.source.size, written.size, found.base.name, found.family, found.naming,
        {name: len(component.layers) for name, component in components.items()},
        count_ranks(layers), count_alphas(layers), written.source_sha256, written.tensors_sha256, written.identity,
        found.report, written.document["provenance"].get("exact") is True, cost,
    )  # fmt: skip


def _as_bytes(size: int | str | None) -> int | None:
    """A size in bytes; UsageError for a text that is none."""
    try:
        return size_bytes(size) if isinstance(size, str) else size
    except ValueError as error:
        raise UsageError("is no size such as 40MB", key=label("size"), found=size) from error


def _check_apart(path: Path, parts: Sequence[converters.Source], base: str | Path | Architecture | None) -> None:
    """Raise FileAccessError where the output would take the place of what it is made from."""
    hint = f"Name another file with {option('output')}."
    for part in parts:
        if is_part(path, part.path):
            raise FileAccessError("is the source itself", file=path, hint=hint)
        if is_part(path, part.path.with_name(CONFIG_NAME)):
            raise FileAccessError("is the configuration of the source", file=path, hint=hint)
    place = find_cached(str(base)) or base if isinstance(base, str | Path) and not Path(base).exists() else base
    if isinstance(place, str | Path) and is_part(path, place):
        raise FileAccessError("is the base model, or a file of it", file=path, hint=hint)


def _sha256(source: converters.Source) -> str:
    digest = hashlib.sha256()
    for chunk in Span(source.path, 0, source.size).chunks():
        digest.update(chunk)
    return digest.hexdigest()


def in_source_words(error: FormatError, found: converters.Conversion) -> FormatError:
    """The same error about a tensor of the source, whose name the user knows, instead of one of the new file."""
    component, module, leaf = split_name(error.key or "", None)
    held = found.adapter.components[component]
    tensor = held.embeddings[module] if leaf == EMBEDDING else held.layers[module].tensors[leaf]
    home = _home(tensor, found.source)
    return type(error)(
        error.problem, file=found.source.path, key=home or error.key, expected=error.expected, found=error.found,
        hint=error.hint,
    )  # fmt: skip


def _home(tensor: Tensor, source: converters.Source) -> str | None:
    """The source tensor that the first bytes of ``tensor`` are of."""
    first = tensor.pieces[0]
    for name, candidate in source.tensors.items():
        for piece in candidate.pieces:
            if isinstance(first, Span) and isinstance(piece, Span):
                if piece.offset <= first.offset < piece.offset + piece.length:
                    return name
            elif piece is first:
                return name
    return None
