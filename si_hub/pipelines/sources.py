"""From what a user names (a file, a folder, a repository, tensors) to an Adapter. Pickles are never opened."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from si_hub import format as file_format
from si_hub.adapter import Adapter
from si_hub.errors import FormatError, MissingFile, NotStyleInject, UsageError
from si_hub.format.hashes import check_data
from si_hub.hub import names
from si_hub.hub.pull.fetching import fetch_adapter
from si_hub.hub.pull.selection import conversion_call
from si_hub.pipelines import remembered
from si_hub.report.progress import Progress, progress_bar
from si_hub.storage.header import SafetensorsFile, read_safetensors
from si_hub.storage.paths import expand_home
from si_hub.storage.tensors import Tensor
from si_hub.words import call


@dataclass(frozen=True, slots=True)
class Fetch:
    """Where to look for a repository's file: the keywords diffusers has, with their meaning there."""

    weight_name: str | None = None
    subfolder: str | None = None
    revision: str | None = None
    cache_dir: str | Path | None = None
    force_download: bool = False
    local_files_only: bool | None = None
    token: str | bool | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Loaded:
    """An adapter that was read.

    Attributes:
        adapter: it.
        source: what to call it in messages.
        notes: what the user should know of how it came about.
    """

    adapter: Adapter
    source: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FoundAdapter:
    """Where an adapter is.

    Attributes:
        path: a file, or the folder of a foreign adapter.
        command: what converts it, where it is foreign.
        fetched: whether it came from a repository.
        header: of a file, where it was read already.
    """

    path: Path
    command: str
    fetched: bool = False
    header: SafetensorsFile | None = field(default=None, repr=False)


class StateDict(dict[str, torch.Tensor]):
    """Tensors by their names in the file.

    Attributes:
        metadata: the header metadata that belongs to them, the StyleInject document included.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
        super().__init__(tensors)
        self.metadata = dict(metadata)


def adapter_from(
    source: object,
    fetch: Fetch,
    metadata: Mapping[str, str] | None = None,
    convert: bool | str | os.PathLike[str] = False,
) -> Loaded | FoundAdapter:
    """The adapter that a user's argument means, or where it is, if it is somebody else's and to be converted.

    Args:
        convert: whether somebody else's adapter is found too.

    Raises:
        UsageError: an argument of another kind, metadata for something that has its own.
        MissingFile, FormatError, FileAccessError: see `locate_adapter` and `si_hub.format.read`.
    """
    if metadata is not None and not isinstance(source, Mapping):
        raise UsageError("metadata goes with a table of tensors, files have their own", key="metadata")
    if convert == "":
        raise UsageError("the base model's name is empty", key="convert", expected="True, or a name or folder")
    if isinstance(source, Adapter):
        return Loaded(source, "an Adapter")
    if isinstance(source, Mapping):
        return Loaded(_from_tensors(source, metadata or getattr(source, "metadata", {})), _TABLE)
    if not isinstance(source, str | os.PathLike):
        raise UsageError(
            "this is no source of an adapter",
            expected="a path, a repository id, an Adapter or a table of tensors",
            found=type(source).__name__,
        )
    place = find_adapter(source, fetch, foreign=convert is not False)
    if convert is not False:
        header = remembered.known_header(place.path) if place.path.is_file() else None
        place = replace(place, header=header)
        if header is None or not file_format.is_styleinject(header):
            return place
    return Loaded(read_adapter(place), str(place.path))


def state_dict(source: object, fetch: Fetch) -> StateDict:
    """The tensors and header metadata that a path, repository id or table of tensors means."""
    if isinstance(source, Mapping):
        return StateDict(source, getattr(source, "metadata", {}))
    if not isinstance(source, str | os.PathLike):
        raise UsageError("no path, repository id or table of tensors", found=type(source).__name__)
    place = find_adapter(source, fetch)
    read_adapter(place)
    file = read_safetensors(place.path)
    return StateDict({name: tensor.torch() for name, tensor in file.tensors.items()}, file.metadata)


def _from_tensors(tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> Adapter:
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise UsageError("a table of tensors holds something else", key=str(name), found=type(tensor).__name__)
    held = {name: Tensor.from_torch(tensor) for name, tensor in tensors.items()}
    try:
        return file_format.parse_adapter(SafetensorsFile(Path(_TABLE), 0, 0, dict(metadata), held))
    except NotStyleInject as error:
        raise NotStyleInject(
            error.problem,
            file=_TABLE,
            found=", ".join(list(held)[:3]),
            hint="Pass what styleinject_state_dict() returns, or the file's header metadata as metadata=",
        ) from error


_TABLE = "the table of tensors"


def locate_adapter(source: str | os.PathLike[str], fetch: Fetch) -> Path:
    """The StyleInject file that ``source`` names: a file, a folder that holds one, or a repository's id.

    A repository's file is fetched at one commit and verified against that commit's listing; the cache answers without
    a request where the revision is a commit, and where ``local_files_only`` or ``HF_HUB_OFFLINE`` say so. A StyleInject
    file of any name is found.

    Raises:
        MissingFile: no such file, folder, repository, revision, or not in the cache.
        UsageError: several files to choose from, or a ``weight_name`` that is no safetensors file.
        NotStyleInject: files, but none of this format.
        SiHubError: as `si_hub.hub.pull.fetching.fetch_adapter`.
    """
    return find_adapter(source, fetch).path


def find_adapter(source: str | os.PathLike[str], fetch: Fetch, *, foreign: bool = False) -> FoundAdapter:
    """As `locate_adapter`; with ``foreign``, somebody else's adapter where there is none of ours."""
    if fetch.weight_name is not None and not fetch.weight_name.endswith(".safetensors"):
        raise UsageError(
            "only safetensors files are loaded, a pickle can run any code",
            key="weight_name",
            found=fetch.weight_name,
            hint=f"Convert it first: {call('convert', fetch.weight_name)}",
        )
    path = expand_home(source)
    if path.is_file():
        return FoundAdapter(path, _convert_hint(path))
    if path.is_dir():
        path = _in_folder(path / (fetch.subfolder or ""), fetch.weight_name, foreign)
        return FoundAdapter(path, _convert_hint(path))
    if not isinstance(source, str) or source.endswith(".safetensors") or not names.is_repo_id(source.partition("@")[0]):
        raise MissingFile("no such file or folder", file=path)
    with ExitStack() as stack:
        found = fetch_adapter(
            source,
            want="any" if foreign else "ours",
            revision=fetch.revision,
            subfolder=fetch.subfolder,
            weight_name=fetch.weight_name,
            cache_dir=fetch.cache_dir,
            force_download=fetch.force_download,
            local_files_only=fetch.local_files_only,
            token=fetch.token,
            progress=_bar(stack),
        )
    command = conversion_call(str(names.parse_ref(source, fetch.revision)), found.name)
    return FoundAdapter(found.path, f"Convert it: {command}, or convert=True", True)


def _bar(stack: ExitStack) -> Progress:
    """A bar that is drawn when there is something to fetch, unless huggingface_hub's are switched off."""
    from huggingface_hub.utils import are_progress_bars_disabled

    drawn: list[Progress | None] = []

    def tell(done: int, total: int) -> None:
        if not drawn:
            drawn.append(stack.enter_context(progress_bar("fetching", quiet=are_progress_bars_disabled())))
        if drawn[0] is not None:
            drawn[0](done, total)

    return tell


def _in_folder(folder: Path, weight_name: str | None, foreign: bool) -> Path:
    try:
        return in_folder(folder, weight_name)
    except (MissingFile, NotStyleInject):
        if not foreign or weight_name is not None:
            raise
    return folder


def in_folder(folder: Path, weight_name: str | None = None) -> Path:
    """The named file, ``styleinject.safetensors``, or the only StyleInject file of a folder."""
    wanted = folder / (weight_name or file_format.DEFAULT_NAME)
    if wanted.is_file():
        return wanted
    present = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if weight_name is not None or not present:
        raise MissingFile(
            "no such file" if weight_name else "the folder holds no safetensors file",
            file=wanted if weight_name else folder,
            found=", ".join(path.name for path in present) or None,
        )
    ours = [path for path in present if _is_ours(path)]
    if len(ours) > 1:
        names = ", ".join(path.name for path in ours)
        raise UsageError("several adapters to choose from", file=folder, found=names, hint="Say which: weight_name=")
    if not ours:
        raise NotStyleInject(
            "the folder holds no StyleInject file",
            file=folder,
            found=", ".join(path.name for path in present),
            hint=_convert_hint(present[0]),
        )
    return ours[0]


def read_adapter(place: FoundAdapter) -> Adapter:
    """`si_hub.format.read`, with the command that helps where the file is somebody else's format.

    The data section of a file that was fetched is checked against the document's hash.
    """
    try:
        file = place.header or read_safetensors(place.path)
        adapter = file_format.parse_adapter(file)
        if place.fetched:
            check_data(file, file_format.read_document(file)["tensors_sha256"])
    except NotStyleInject as error:
        raise NotStyleInject(
            error.problem, file=place.path, expected=error.expected, found=error.found, hint=place.command
        ) from error
    return adapter


def _convert_hint(path: Path) -> str:
    return f"Convert it first: {call('convert', path)}"


def _is_ours(path: Path) -> bool:
    try:
        return file_format.is_styleinject(read_safetensors(path))
    except FormatError:
        return False
