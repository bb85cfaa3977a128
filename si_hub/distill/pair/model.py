"""A base or tuned model as it lies on disk: folder, single file or cached repository. Nothing is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from si_hub.architectures import Architecture
from si_hub.architectures.checkpoint import DENOISERS
from si_hub.architectures.folder import class_name_of, read_object
from si_hub.distill.pair.weights import Weight
from si_hub.storage.tensors import DTYPE_SIZES

#: Modules of text encoders that one release has and another lacks: a projection that Stable Diffusion 3 makes itself,
#: T5's second name of its first embedding.
OPTIONAL = {"text_projection", "encoder.embed_tokens"}


@dataclass(slots=True)
class ModelOnDisk:
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
        configuration: a pipeline folder that says of a single file what it does not, where one is named.
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
    configuration: Path | None = None

    @property
    def name(self) -> str:
        """What the file or folder is called, and not where it lies."""
        return name_of(self.path)

    @property
    def title(self) -> str:
        """What strangers know it by: its repository, else its name."""
        return self.repo_id or self.name

    @property
    def denoiser(self) -> str:
        """Attribute name of the model that removes the noise; the first component where there is none."""
        return next((name for name in DENOISERS if name in self.components), next(iter(self.components)))

    @property
    def size(self) -> int:
        """Numbers in all components."""
        return sum(weight.count for weights in self.components.values() for weight in weights.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all components and of the autoencoder, as they are stored."""
        tables = (*self.components.values(), self.vae)
        return sum(weight.count * DTYPE_SIZES[weight.dtype] for table in tables for weight in table.values())

    def config(self, component: str) -> dict[str, Any]:
        """``config.json`` of a component of a folder; of a single file, that of its configuration, empty without."""
        if (folder := self.folder) is None:
            return {}
        file = component_folder(folder, component) / "config.json"
        return read_object(file) if file.is_file() else {}

    @property
    def folder(self) -> Path | None:
        """The folder whose configurations are the model's: its own, or the one that is named for a single file."""
        return self.path if self.layout == "folder" else self.configuration


def name_of(path: Path) -> str:
    """What a file or folder is called, also one that is written ``.`` or ``..``; never empty."""
    return path.name if path.name not in {"", ".."} else path.resolve().name or "model"


def component_folder(path: Path, component: str) -> Path:
    """Where a component of a model's folder lies: the folder itself where it holds that one component."""
    return path / component if (path / "model_index.json").is_file() else path


def vae_class(path: Path) -> str:
    """Class name of a folder's autoencoder."""
    config = path / "vae" / "config.json"
    return class_name_of(read_object(config)) if config.is_file() else ""
