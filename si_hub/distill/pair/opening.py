"""Opening a model: a folder, a single file, or a repository in the local cache."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from si_hub.architectures import from_folder
from si_hub.architectures.checkpoint import DENOISERS
from si_hub.architectures.folder import frozen_path, weight_files
from si_hub.architectures.known import under_known_name
from si_hub.architectures.model import BUFFERS
from si_hub.distill.pair.checkpoint import sight_of
from si_hub.distill.pair.kinship import glance
from si_hub.distill.pair.model import ModelOnDisk, component_folder
from si_hub.distill.pair.weights import Weight
from si_hub.errors import MissingFile, UsageError
from si_hub.hub.names import as_ref
from si_hub.storage.header import read_safetensors
from si_hub.words import label

_REPO_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)


def open_model(path: str | Path, *, base: ModelOnDisk | None = None) -> ModelOnDisk:
    """A model as a diffusers folder, a single-file checkpoint, or a repository id that is in the Hub's local cache.

    Single files carry no configuration, so ``base`` says which model they must be; without it they are recognised.
    ``.ckpt`` and ``.pt`` files are opened so that no code in them can run.

    Raises:
        MissingFile: nothing there, or a repository that is not in the cache.
        NotAModel: an adapter, or something else, instead of a model.
        WrongPair: a file of another architecture than ``base``.
        BaseMismatch: a model that cannot be told from the file alone.
        FormatError, FileAccessError: a file that cannot be read, truncated ones included.
    """
    place = Path(path)
    if not place.exists() and (match := _REPO_ID.fullmatch(as_ref(path))):
        return _open_cached(match[1], match[2], base)
    return _open_folder(place) if place.is_dir() else open_single(place, base)


def open_base(base: str | Path, tuned: Sequence[str | Path], config: str | Path | None = None) -> ModelOnDisk:
    """The base; a single file that only a folder's configuration explains is read by that of a tuned folder.

    Args:
        base: the base.
        tuned: the tuned models.
        config: a pipeline folder, or a repository in the local cache, that a single file's pipeline is assembled by.

    Raises:
        UsageError: a configuration for a base that is a folder, which has its own.
        MissingFile: a configuration that is not there, or no pipeline's.
        BaseMismatch, FormatError, FileAccessError: as `open_model`.
    """
    folder = next((one for one in tuned if Path(one).is_dir()), None)
    if config is None:
        return open_model(base, base=open_model(folder) if folder and Path(base).is_file() else None)
    configuration = _configuration(config)
    if not Path(base).is_file():
        raise UsageError("is for a base that is a single file", key=label("config"), hint="Leave it out.")
    known = folder or (configuration if has_weights(configuration) else None)
    model = open_model(base, base=open_model(known) if known else None)
    model.configuration = configuration
    return model


def _configuration(config: str | Path) -> Path:
    place = Path(config)
    match = _REPO_ID.fullmatch(as_ref(config))
    folder = _snapshot(match[1], match[2]) if match and not place.exists() else place
    if not (folder / "model_index.json").is_file():
        raise MissingFile(
            "is no pipeline folder", file=folder, key=label("config"), expected="a folder with model_index.json",
            hint="Name a diffusers pipeline folder, or a repository in the local cache.",
        )  # fmt: skip
    return folder


def has_weights(folder: Path) -> bool:
    """Whether a pipeline's folder has the weights of its denoiser, and not only configurations."""
    parts = [folder / name for name in DENOISERS if (folder / name).is_dir()]
    return any(any(part.glob("*.safetensors")) for part in parts)


def open_single(path: Path, base: ModelOnDisk | None) -> ModelOnDisk:
    """A single-file checkpoint, its names mapped to those of diffusers.

    Raises:
        NotAModel: a LoRA, a ControlNet, anything but a checkpoint.
        WrongPair: a model of another architecture than ``base``.
        BaseMismatch: no model that the installed diffusers can map.
        MissingFile, FileAccessError, FormatError: a file that cannot be read.
    """
    sight = sight_of(path, base)
    if base:
        glance(path, sight.weights, base)
    # Only now: this is what imports torch and diffusers.
    from si_hub.distill.pair.renaming import map_checkpoint

    found = map_checkpoint(path, sight.weights, sight.architecture, base)
    return ModelOnDisk(
        path, "file", found.architecture, sight.prediction_type, found.components, found.vae, found.ignored,
        sight.metadata,
    )  # fmt: skip


def _open_folder(path: Path) -> ModelOnDisk:
    found = from_folder(path)
    components = {
        name: folder_weights(component_folder(path, name), model.class_name) for name, model in found.components.items()
    }
    vae = folder_weights(path / "vae", "") if (path / "vae" / "config.json").is_file() else {}
    return ModelOnDisk(path, "folder", under_known_name(found), found.prediction_type, components, vae)


def folder_weights(folder: Path, class_name: str) -> dict[str, Weight]:
    """Weights of one component's folder by frozen names, integer buffers left out."""
    found: dict[str, Weight] = {}
    for file in weight_files(folder):
        for name, tensor in read_safetensors(file).tensors.items():
            if not name.endswith(BUFFERS):
                found[frozen_path(name, class_name)] = Weight.in_file(tensor, name)
    return found


def check_there(path: str | Path) -> None:
    """Raise MissingFile where `open_model` would find nothing to open; needs no base and no torch."""
    if Path(path).exists():
        return
    if match := _REPO_ID.fullmatch(as_ref(path)):
        _snapshot(match[1], match[2])
    else:
        raise MissingFile("no such file or folder", file=path)


def find_cached(name: str) -> Path | None:
    """The folder of a repository in the local cache; ``None`` where there is none, or the name is no repository's."""
    match = _REPO_ID.fullmatch(name)
    try:
        return _snapshot(match[1], match[2]) if match else None
    except MissingFile:
        return None


def _snapshot(repo_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, revision=revision, local_files_only=True))
    except HFValidationError as error:
        # Such as ../model.safetensors, which no repository is called.
        raise MissingFile("no such file or folder", file=repo_id) from error
    except LocalEntryNotFoundError as error:
        raise MissingFile(
            "no such file or folder, and no such repository in the local cache", file=repo_id,
            hint=f"Fetch it first: hf download {repo_id}",
        ) from error  # fmt: skip


def _open_cached(repo_id: str, revision: str | None, base: ModelOnDisk | None) -> ModelOnDisk:
    folder = _snapshot(repo_id, revision)
    files = sorted(folder.glob("*.safetensors"))
    if not (folder / "model_index.json").is_file() and not (folder / "config.json").is_file() and len(files) == 1:
        model = open_model(files[0], base=base)
    else:
        model = _open_folder(folder)
    model.repo_id, model.revision = repo_id, folder.name
    return model
