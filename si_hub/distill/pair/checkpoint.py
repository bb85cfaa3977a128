"""Single-file checkpoints: what one is, from its names and shapes alone, before torch is imported."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from si_hub.architectures import Architecture, load, names
from si_hub.architectures.bases import BASES
from si_hub.architectures.checkpoint import DENOISERS, recognise
from si_hub.architectures.model import Model as Modules
from si_hub.architectures.recognise import may_be_pickle
from si_hub.converters.families.registry import plain_names, rejection
from si_hub.distill.pair.kinship import glance
from si_hub.distill.pair.model import ModelOnDisk
from si_hub.distill.pair.scaling import check_scaled
from si_hub.distill.pair.weights import Weight
from si_hub.errors import FormatError, NotAModel, NotSafetensors, TruncatedFile, WrongPair
from si_hub.storage.header import read_safetensors
from si_hub.storage.pickles import find_bytes, load_pickle, load_unread
from si_hub.storage.tensors import Tensor, file_state, torch_names
from si_hub.words import call

if TYPE_CHECKING:
    import torch

#: Classes whose original names are known, so that a misfit is found without torch.
_KNOWN_NAMES = frozenset(part.class_name for base in BASES if base.layouts for part in base.denoisers().values())
#: What checkpoints and metadata call what the denoiser predicts.
_PREDICTIONS = {"v": "v_prediction", "v_prediction": "v_prediction", "v-prediction": "v_prediction",
                "epsilon": "epsilon", "eps": "epsilon", "sample": "sample"}  # fmt: skip
#: Input channels of the denoiser's first layer that mean a special model.
_CHANNELS = {9: "an inpainting model", 8: "an editing model (InstructPix2Pix)", 5: "a depth model"}


@dataclass(frozen=True, slots=True)
class Sight:
    """What a single file's header says.

    Attributes:
        weights: by their names in the file.
        metadata: of the header.
        architecture: ``None`` where only diffusers may know it.
        prediction_type: what the denoiser predicts, where the file says so.
    """

    weights: dict[str, Weight]
    metadata: dict[str, str]
    architecture: Architecture | None
    prediction_type: str | None


def sight_of(path: Path, base: ModelOnDisk | None) -> Sight:
    """A single file at first sight; raises as `si_hub.distill.pair.opening.open_single` does."""
    weights, metadata = read_checkpoint(path)
    refuse_others(path, weights)
    check_scaled(path, weights, metadata)
    sight = Sight(weights, metadata, recognise_checkpoint(path, weights, base), prediction_of(metadata, weights))
    if base:
        check_prediction(path, sight.prediction_type, base)
    return sight


def check_singles(base: Path, tuned: Iterable[Path]) -> None:
    """Raise what is wrong with a single-file base and files tuned from it, as far as it can be told without torch.

    Opening the base takes diffusers, whose import takes seconds; headers and samples tell most wrong pairs before.

    Raises:
        WrongPair, NotAModel, MissingFile, FileAccessError, FormatError: as `si_hub.distill.pair.opening.open_single`.
    """
    start = sight_of(base, None)
    if start.architecture is None:
        return
    denoiser = next(name for name in start.architecture.components if name in DENOISERS)
    sketch = ModelOnDisk(base, "file", start.architecture, start.prediction_type, {denoiser: {}})
    for path in tuned:
        glance(path, sight_of(path, sketch).weights, start.weights)


def read_checkpoint(path: Path) -> tuple[dict[str, Weight], dict[str, str]]:
    """Weights by their names in the file, and the header's metadata.

    Raises:
        MissingFile, FileAccessError, FormatError: as `read_safetensors`; a pickle of more than tensors.
    """
    try:
        file = read_safetensors(path)
    except NotSafetensors:
        if not may_be_pickle(path):
            raise
        return _unpickle(path), {}
    return {name: Weight.in_file(tensor, name) for name, tensor in file.tensors.items()}, file.metadata


def _unpickle(path: Path) -> dict[str, Weight]:
    """The tensors of a PyTorch file, opened by torch so that no code in it can run; of an archive none is read yet."""
    state = file_state(path) if _is_zip(path) else None
    if state and not zipfile.is_zipfile(path):
        raise TruncatedFile(
            "is a PyTorch file whose end is missing or damaged", file=path, hint="Download it again."
        )  # fmt: skip
    if state:
        unread = _tensors_of(load_unread(path, FormatError))
        found = {name: find_bytes(value, path, state) for name, value in unread.items()}
        if None not in found.values():
            return {name: _weight_of(unread[name], name, flat) for name, flat in found.items()}
    return {name: _weight_of(value, name) for name, value in _tensors_of(load_pickle(path, FormatError)).items()}


def _tensors_of(held: Any) -> dict[str, torch.Tensor]:
    import torch

    while isinstance(held, dict) and isinstance(held.get("state_dict"), dict):
        held = held["state_dict"]
    kinds = torch_names()
    return {
        str(name): value
        for name, value in (held.items() if isinstance(held, dict) else ())
        if isinstance(value, torch.Tensor) and value.dtype in kinds and value.layout is torch.strided
    }


def _weight_of(value: torch.Tensor, name: str, flat: Tensor | None = None) -> Weight:
    """A weight of a tensor that was read, or of a stand-in and its bytes."""
    kind, shape, strides = torch_names()[value.dtype], tuple(value.shape), value.stride()
    if flat is None:
        return Weight(kind, shape, (name,), lambda: value)
    if value.is_contiguous():
        return Weight.in_file(flat.reshape(*shape), name)
    return Weight(kind, shape, (name,), lambda: flat.torch().as_strided(shape, strides))


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def refuse_others(path: Path, held: Collection[str]) -> None:
    """Raise NotAModel for files that are no whole model: adapters, ControlNets, embeddings."""
    if not held:
        raise NotAModel("holds no tensors", file=path)
    plain = set(plain_names(held))
    if 2 * len(plain) < len(held):
        first = next(name for name in held if name not in plain)
        raise NotAModel(
            "is an adapter such as a LoRA, not a checkpoint", file=path, key=first,
            hint=f"Convert it: {call('convert', path.name)}",
        )  # fmt: skip
    if (found := rejection(held)) and not found[0].is_model:
        raise NotAModel(f"is {found[0].name}, not a checkpoint", file=path, key=found[1])


def recognise_checkpoint(path: Path, weights: Mapping[str, Weight], base: ModelOnDisk | None) -> Architecture | None:
    """The architecture by names and shapes, ``None`` where only diffusers may know it.

    Raises:
        WrongPair: it is certain that the file's denoiser is not the base's.
    """
    shapes = {name: weight.shape for name, weight in weights.items()}
    if base is None:
        return recognise(shapes, map(load, names()))
    expected = base.architecture.components[base.denoiser]
    found = recognise(shapes, [base.architecture])
    if found is None and expected.class_name in _KNOWN_NAMES:
        raise _another(path, shapes, base)
    if found is not None:
        check_same(path, found.components[base.denoiser], expected, base)
    return found


def check_same(path: Path, found: Modules, expected: Modules, base: ModelOnDisk) -> None:
    """Raise WrongPair where a denoiser's modules are not the base's."""
    if found.modules == expected.modules:
        return
    first = next(
        module for module in (*expected.modules, *found.modules)
        if found.modules.get(module) != expected.modules.get(module)
    )  # fmt: skip
    mine, theirs = found.modules.get(first), expected.modules.get(first)
    special = ""
    if mine and theirs and len(mine.shape) > 1 and mine.shape[0] == theirs.shape[0]:
        kind = _CHANNELS.get(mine.shape[1], "a model with other inputs")
        special = f": it is {kind}, with {mine.shape[1]} input channels where the base has {theirs.shape[1]}"
    raise WrongPair(
        f"is not tuned from this base{special}", file=path, key=first,
        expected=f"{list(theirs.shape)} as in {base.path}" if theirs else f"no such module, as in {base.path}",
        found=list(mine.shape) if mine else "no such module", hint="Name the base model it was tuned from.",
    )  # fmt: skip


def check_prediction(path: Path, found: str | None, base: ModelOnDisk) -> None:
    """Raise WrongPair where both models say what they predict, and it is not the same."""
    if found and base.prediction_type and found != base.prediction_type:
        raise WrongPair(
            "predicts something else than the base", file=path, key="prediction_type",
            expected=f"{base.prediction_type}, as in {base.path}", found=found,
            hint="Name a base model that predicts the same.",
        )  # fmt: skip


def _another(path: Path, shapes: Mapping[str, tuple[int, ...]], base: ModelOnDisk) -> WrongPair:
    """What the file is instead of the base's architecture."""
    found = recognise(shapes, map(load, names()))
    return WrongPair(
        f"is {'a model of another architecture' if found is None else f'a checkpoint of {found.name}'}, "
        f"the base is {base.architecture.name}",
        file=path, expected=f"the modules of {base.path}", found=None if found is None else _summary(found),
        hint="Name the base model it was tuned from.",
    )  # fmt: skip


def _summary(found: Architecture) -> str:
    return ", ".join(model.class_name for name, model in found.components.items() if name in DENOISERS)


def prediction_of(metadata: Mapping[str, str], held: Iterable[str]) -> str | None:
    """What the denoiser predicts, where the file says so: ModelSpec metadata, or SDXL's marker tensor."""
    if "v_pred" in held:
        return "v_prediction"
    return _PREDICTIONS.get(re.sub(r"\s", "", metadata.get("modelspec.prediction_type", "")).lower())
