"""From what a user names (a file, a folder, a repository, tensors) to an Adapter. Pickles are never opened."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from si_hub import format as file_format
from si_hub.adapter import Adapter
from si_hub.errors import FormatError, MissingFile, NotStyleInject, UsageError
from si_hub.storage.header import SafetensorsFile, read_safetensors
from si_hub.storage.tensors import Tensor

_REPO_ID = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Fetch:
    """Where to look for a repository's file: the keywords diffusers has, with their meaning there."""

    weight_name: str | None = None
    subfolder: str | None = None
    revision: str | None = None
    cache_dir: str | Path | None = None
    force_download: bool = False
    local_files_only: bool | None = None
    token: str | bool | None = None


class StateDict(dict[str, torch.Tensor]):
    """Tensors by their names in the file.

    Attributes:
        metadata: the header metadata that belongs to them, the StyleInject document included.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
        super().__init__(tensors)
        self.metadata = dict(metadata)


def adapter(source: object, fetch: Fetch, metadata: Mapping[str, str] | None = None) -> tuple[Adapter, str]:
    """The adapter that a user's argument means, and what to call it in messages.

    Raises:
        UsageError: an argument of another kind, metadata for something that has its own.
        MissingFile, FormatError, FileAccessError: see `locate` and `si_hub.format.read`.
    """
    if metadata is not None and not isinstance(source, Mapping):
        raise UsageError("metadata goes with a table of tensors, files have their own", key="metadata")
    if isinstance(source, Adapter):
        return source, "an Adapter"
    if isinstance(source, Mapping):
        return _from_tensors(source, metadata or getattr(source, "metadata", {})), _TABLE
    if not isinstance(source, str | os.PathLike):
        raise UsageError(
            "this is no source of an adapter",
            expected="a path, a repository id, an Adapter or a table of tensors",
            found=type(source).__name__,
        )
    path = locate(source, fetch)
    return read(path), str(path)


def state_dict(source: object, fetch: Fetch) -> StateDict:
    """The tensors and header metadata that a path, repository id or table of tensors means."""
    if isinstance(source, Mapping):
        return StateDict(source, getattr(source, "metadata", {}))
    if not isinstance(source, str | os.PathLike):
        raise UsageError("no path, repository id or table of tensors", found=type(source).__name__)
    path = locate(source, fetch)
    read(path)
    file = read_safetensors(path)
    return StateDict({name: tensor.torch() for name, tensor in file.tensors.items()}, file.metadata)


def _from_tensors(tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> Adapter:
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise UsageError("a table of tensors holds something else", key=str(name), found=type(tensor).__name__)
    held = {name: Tensor.from_torch(tensor) for name, tensor in tensors.items()}
    try:
        return file_format.adapter_of(SafetensorsFile(Path(_TABLE), 0, 0, dict(metadata), held))
    except NotStyleInject as error:
        raise NotStyleInject(
            error.problem,
            file=_TABLE,
            found=", ".join(list(held)[:3]),
            hint="Pass what styleinject_state_dict() returns, or the file's header metadata as metadata=",
        ) from error


_TABLE = "the table of tensors"


def locate(source: str | os.PathLike[str], fetch: Fetch) -> Path:
    """The StyleInject file that ``source`` names: a file, a folder that holds one, or a repository's id.

    A repository's file is fetched as diffusers does it: the Hub is asked for the newest commit of the revision,
    the cache answers where the Hub cannot be reached, or where ``local_files_only`` or ``HF_HUB_OFFLINE`` say so.
    From the cache a StyleInject file of any name is found. Nothing but one ``.safetensors`` file is ever fetched.

    Raises:
        MissingFile: no such file, folder, repository, revision, or not in the cache.
        UsageError: several files to choose from, or a ``weight_name`` that is no safetensors file.
        NotStyleInject: files, but none of this format.
    """
    if fetch.weight_name is not None and not fetch.weight_name.endswith(".safetensors"):
        raise UsageError(
            "only safetensors files are loaded, a pickle can run any code",
            key="weight_name",
            found=fetch.weight_name,
            hint=f"si-hub convert {fetch.weight_name}",
        )
    path = Path(os.path.expanduser(source))
    if path.is_file():
        return path
    if path.is_dir():
        return in_folder(path / (fetch.subfolder or ""), fetch.weight_name)
    if not isinstance(source, str) or not _REPO_ID.fullmatch(source) or source.endswith(".safetensors"):
        raise MissingFile("no such file or folder", file=path)
    return _in_repository(source, fetch)


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
            hint=_convert(present[0]),
        )
    return ours[0]


def read(path: Path) -> Adapter:
    """`si_hub.format.read`, with the command that helps where the file is somebody else's format."""
    try:
        return file_format.read(path)
    except NotStyleInject as error:
        error.hint = _convert(path)
        raise NotStyleInject(
            error.problem, file=path, expected=error.expected, found=error.found, hint=error.hint
        ) from error


def _convert(path: Path) -> str:
    return f"Convert it first: si-hub convert {path}"


def _is_ours(path: Path) -> bool:
    try:
        return file_format.is_styleinject(read_safetensors(path))
    except FormatError:
        return False


def _in_repository(repo_id: str, fetch: Fetch) -> Path:
    from huggingface_hub import constants, errors, hf_hub_download

    missing: str | None = None
    if not (fetch.local_files_only or constants.HF_HUB_OFFLINE):
        try:
            return Path(
                hf_hub_download(
                    repo_id,
                    fetch.weight_name or file_format.DEFAULT_NAME,
                    subfolder=fetch.subfolder,
                    revision=fetch.revision,
                    cache_dir=fetch.cache_dir,
                    force_download=fetch.force_download,
                    token=fetch.token,
                    library_name="si-hub",
                )
            )
        except errors.LocalEntryNotFoundError:
            missing = "the repository is not in the cache, and the Hub cannot be reached"
        except errors.EntryNotFoundError:
            missing = f"the repository has no file {fetch.weight_name or file_format.DEFAULT_NAME}"
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
            raise MissingFile(
                "no such repository or revision, or no access to it",
                file=repo_id,
                key=fetch.revision,
                hint="A private or gated one needs a token: token=, or `hf auth login`",
            ) from error
    folder = _cached(repo_id, fetch)
    if folder is None or (missing and fetch.force_download):
        raise MissingFile(
            missing or "the repository is not in the cache, and downloading is switched off",
            file=repo_id,
            key=fetch.revision,
            hint=f"Fetch it where there is a network: hf download {repo_id}",
        )
    return in_folder(folder / (fetch.subfolder or ""), fetch.weight_name)


def _cached(repo_id: str, fetch: Fetch) -> Path | None:
    """The snapshot folder of a cached repository's revision, None where it is not cached."""
    from huggingface_hub import constants

    cache = Path(fetch.cache_dir or constants.HF_HUB_CACHE).expanduser()
    repository = cache / "models--{}".format(repo_id.replace("/", "--"))
    revision = fetch.revision or constants.DEFAULT_REVISION
    ref = repository / "refs" / revision
    commit = ref.read_text().strip() if ref.is_file() else revision
    snapshot = repository / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None
