"""What PEFT saves whole (``modules_to_save``, ``bias=``): trained weights, not what was added to the base's.

They become differences where the base model's weights are given; a base that is only named has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from si_hub.architectures import Architecture
from si_hub.architectures.folder import frozen_path, weight_files
from si_hub.converters.dense import BaseModule, Parameter, Values, Weights, as_double
from si_hub.converters.families.contract import SourceModule, Target
from si_hub.converters.naming.suffixes import Key
from si_hub.errors import BaseMismatch
from si_hub.storage.header import read_safetensors
from si_hub.storage.tensors import Tensor

if TYPE_CHECKING:
    import torch

_CONTAINER = "base_model.model."
#: PEFT's name of the module that a LoRA wraps.
_WRAPPED = ".base_layer"
#: The end of a whole parameter's name → the slot of the difference that it becomes.
_SLOTS = {"weight": "diff", "bias": "diff_b"}


def split_saved(name: str, configs: Mapping[str, Mapping[str, Any]]) -> Key | None:
    """A whole parameter's name taken apart as that of a difference; None where no configuration says it was saved."""
    stem, _, leaf = name.rpartition(".")
    if (
        leaf not in _SLOTS
        or _CONTAINER not in name
        or not any(_says(config, stem, leaf) for config in configs.values())
    ):
        return None
    return Key(stem.removesuffix(_WRAPPED), _SLOTS[leaf], "peft", "")


def _says(config: Mapping[str, Any], stem: str, leaf: str) -> bool:
    if leaf == "bias" and (config.get("bias") == "all" or (config.get("bias") == "lora_only" and _WRAPPED in stem)):
        return True
    saved = config.get("modules_to_save")
    return isinstance(saved, list) and any(isinstance(one, str) and one and f".{one}." in f"{stem}." for one in saved)


def subtract_base(module: SourceModule, target: Target, own: BaseModule) -> None:
    """Make the whole parameters of a module differences, ``saved - base``, computed when they are read.

    Raises:
        BaseMismatch: the base has no such parameter, or one of another shape.
    """
    for slot in module.whole:
        read = own.weight if slot == "diff" else own.bias
        saved, shape = module.tensors[slot], target.shape if slot == "diff" else target.shape[:1]
        if saved.shape != shape:
            raise BaseMismatch(
                "was saved whole, and the base has no such weight to subtract", file=module.file,
                key=module.names[slot], expected=list(shape), found=list(saved.shape),
            )  # fmt: skip
        module.tensors[slot] = Tensor.compute(shape, partial(_subtract, saved, read))


def _subtract(saved: Tensor, read: Values) -> torch.Tensor:
    return as_double(saved) - read()


@dataclass(slots=True)
class FolderWeights(Mapping[str, Mapping[str, Parameter]]):
    """The weights of a base model's folder, by component; the headers of each are read when it is asked for.

    Attributes:
        folder: of a pipeline, or of one component.
        architecture: its components.
    """

    folder: Path
    architecture: Architecture
    _tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def __getitem__(self, component: str) -> Mapping[str, Parameter]:
        if component not in self._tensors:
            own, class_name = self.folder / component, self.architecture.components[component].class_name
            self._tensors[component] = {
                frozen_path(name, class_name): tensor
                for file in weight_files(own if own.is_dir() else self.folder)
                for name, tensor in read_safetensors(file).tensors.items()
            }
        return self._tensors[component]

    def __iter__(self) -> Iterator[str]:
        return iter(self.architecture.components)

    def __len__(self) -> int:
        return len(self.architecture.components)


def weights_of(base: str | Path | Architecture | None, architecture: Architecture | None) -> Weights | None:
    """The weights of what a user named as the base model, where that is a folder."""
    if base is None or architecture is None or isinstance(base, Architecture):
        return None
    return FolderWeights(Path(base), architecture) if Path(base).is_dir() else None
