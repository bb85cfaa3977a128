"""What PEFT saves whole (``modules_to_save``, ``bias=``): trained weights, not what was added to the base's.

They become differences where the base model's weights are given; a base that is only named has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from si_hub.architectures import Architecture
from si_hub.architectures.folder import frozen_path, weight_files
from si_hub.converters.families.contract import SourceModule
from si_hub.converters.naming.names import Place
from si_hub.converters.naming.suffixes import Key
from si_hub.converters.numbers import as_float64
from si_hub.errors import BaseMismatch
from si_hub.storage.header import read_safetensors
from si_hub.storage.tensors import Tensor

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


@dataclass(slots=True)
class BaseWeights:
    """The weights of a base model's folder, by component; headers are read once.

    Attributes:
        folder: of a pipeline, or of one component.
    """

    folder: Path
    _tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def subtract_from(self, module: SourceModule, place: Place, architecture: Architecture) -> None:
        """Make the whole parameters of a module differences, ``saved - base`` in float32.

        Raises:
            BaseMismatch: the folder has no such parameter, or one of another shape.
            MissingFile, FileAccessError, FormatError: weights that cannot be read.
        """
        import numpy

        held = self._weights(place.component, architecture.components[place.component].class_name)
        for slot in module.whole:
            leaf = next(leaf for leaf, own in _SLOTS.items() if own == slot)
            path = place.parts[0].path
            name = path if f"{path}.{leaf}" not in held and leaf == "weight" else f"{path}.{leaf}"
            saved, base = module.tensors[slot], held.get(name)
            if len(place.parts) > 1 or base is None or base.shape != saved.shape:
                raise BaseMismatch(
                    "was saved whole, and the base has no such weight to subtract", file=module.file,
                    key=module.names[slot], expected=list(saved.shape), found=list(base.shape) if base else "none",
                )  # fmt: skip
            difference = as_float64(saved) - as_float64(base)
            module.tensors[slot] = Tensor.from_numpy(difference.astype(numpy.float32))

    def _weights(self, component: str, class_name: str) -> dict[str, Tensor]:
        if component not in self._tensors:
            own = self.folder / component
            self._tensors[component] = {
                frozen_path(name, class_name): tensor
                for file in weight_files(own if own.is_dir() else self.folder)
                for name, tensor in read_safetensors(file).tensors.items()
            }
        return self._tensors[component]


def weights_of(base: str | Path | Architecture | None) -> BaseWeights | None:
    """The weights of what a user named as the base model, where that is a folder."""
    if base is None or isinstance(base, Architecture):
        return None
    return BaseWeights(Path(base)) if Path(base).is_dir() else None
