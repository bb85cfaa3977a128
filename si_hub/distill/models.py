"""A base or tuned model as it lies on disk: folder, single file or cached repository. Nothing is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from si_hub.architectures import Architecture, from_folder, load, names
from si_hub.architectures.checkpoint import DENOISERS
from si_hub.architectures.folder import class_name_of, frozen_path, read_object, weight_files
from si_hub.architectures.model import BUFFERS
from si_hub.distill.weights import Weight
from si_hub.errors import MissingFile
from si_hub.storage.header import read_safetensors

#: Modules of text encoders that one release has and another lacks: a projection that Stable Diffusion 3 makes itself,
#: T5's second name of its first embedding.
OPTIONAL = {"text_projection", "encoder.embed_tokens"}
_REPO_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)


@dataclass(slots=True)
class Model:
    """A model, nothing of which is loaded.

    Attributes:
        path: the folder or file.
        layout: which of the two it is.
        architecture: its components' modules; a shipped architecture's name where it is one.
        prediction_type: what the denoiser predicts, where the model says so.
        components: weights by component, then by frozen module path and parameter leaf.
        vae: the autoencoder's weights; adapters do not carry it, a difference is reported.
        ignored: tensors of a single file that are no part of the pipeline, and why.
        metadata: of a single file's header.
        repo_id, revision: where it came from the Hub's cache.
    """

    path: Path
    layout: Literal["folder", "file"]
    architecture: Architecture
    prediction_type: str | None
    components: dict[str, dict[str, Weight]]
    vae: dict[str, Weight] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    repo_id: str | None = None
    revision: str | None = None

    @property
    def denoiser(self) -> str:
        """Attribute name of the model that removes the noise; the first component where there is none."""
        return next((name for name in DENOISERS if name in self.components), next(iter(self.components)))

    @property
    def size(self) -> int:
        """Numbers in all components."""
        return sum(weight.count for weights in self.components.values() for weight in weights.values())

    def config(self, component: str) -> dict[str, Any]:
        """``config.json`` of a component of a folder; empty for single files."""
        file = component_folder(self.path, component) / "config.json"
        return read_object(file) if self.layout == "folder" and file.is_file() else {}


def open_model(path: str | Path, *, base: Model | None = None) -> Model:
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
    from si_hub.distill.single import open_single

    place = Path(path)
    if not place.exists() and (match := _REPO_ID.fullmatch(str(path))):
        return _cached(match[1], match[2], base)
    return _folder(place) if place.is_dir() else open_single(place, base)


def component_folder(path: Path, component: str) -> Path:
    """Where a component of a model's folder lies: the folder itself where it holds that one component."""
    return path / component if (path / "model_index.json").is_file() else path


def _folder(path: Path) -> Model:
    found = from_folder(path)
    components = {
        name: folder_weights(component_folder(path, name), model.class_name) for name, model in found.components.items()
    }
    vae = folder_weights(path / "vae", "") if (path / "vae" / "config.json").is_file() else {}
    return Model(path, "folder", named(found), found.prediction_type, components, vae)


def folder_weights(folder: Path, class_name: str) -> dict[str, Weight]:
    """Weights of one component's folder by frozen names, integer buffers left out."""
    found: dict[str, Weight] = {}
    for file in weight_files(folder):
        for name, tensor in read_safetensors(file).tensors.items():
            if not name.endswith(BUFFERS):
                found[frozen_path(name, class_name)] = Weight.stored(tensor, name)
    return found


def named(found: Architecture) -> Architecture:
    """The architecture under its shipped name where its denoiser is a shipped one's, module by module."""
    for known in map(load, names()):
        for part in DENOISERS:
            held, expected = found.components.get(part), known.components.get(part)
            if held and expected and held.modules == expected.modules:
                return replace(found, name=known.name, aliases=known.aliases)
    return found


def vae_class(path: Path) -> str:
    """Class name of a folder's autoencoder."""
    config = path / "vae" / "config.json"
    return class_name_of(read_object(config)) if config.is_file() else ""


def check_there(path: str | Path) -> None:
    """Raise MissingFile where `open_model` would find nothing to open; needs no base and no torch."""
    if Path(path).exists():
        return
    if match := _REPO_ID.fullmatch(str(path)):
        _snapshot(match[1], match[2])
    else:
        raise MissingFile("no such file or folder", file=path)


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


def _cached(repo_id: str, revision: str | None, base: Model | None) -> Model:
    folder = _snapshot(repo_id, revision)
    files = sorted(folder.glob("*.safetensors"))
    if not (folder / "model_index.json").is_file() and not (folder / "config.json").is_file() and len(files) == 1:
        model = open_model(files[0], base=base)
    else:
        model = _folder(folder)
    model.repo_id, model.revision = repo_id, folder.name
    return model
