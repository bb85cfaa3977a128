"""Base models that are not shipped: a diffusers folder, read by its JSON files and safetensors headers only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from si_hub.architectures.model import Architecture, Model, modules_from_shapes
from si_hub.errors import BaseMismatch, FileAccessError, FormatError, MissingFile
from si_hub.storage.header import parse_json, read_safetensors

#: Where a component's weights may be, best first; fp16 and other variants carry a word before ``.safetensors``.
_WEIGHTS = ("diffusion_pytorch_model", "model", "pytorch_model")
#: Component attribute names of a single-component folder, by what its class name says.
_ATTRIBUTES = ((r"UNet", "unet"), (r"Transformer", "transformer"), (r"CLIPText|T5Encoder", "text_encoder"))
#: Pipeline attribute names of the models that adapters are for.
#: Bytes of a configuration or an index of shards; of real ones a megabyte at most.
OBJECT_LIMIT = 4 << 20
COMPONENT = re.compile(r"unet|prior|text_conditioner|(transformer|text_encoder)(_\d+)?")


def from_folder(path: str | Path) -> Architecture:
    """The base model in a diffusers pipeline folder, or in the folder of one component.

    Raises:
        MissingFile: no such folder, no model_index.json or config.json, no safetensors weights.
        BaseMismatch: the folder holds nothing an adapter can be for.
        FormatError: JSON or a header that cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        raise MissingFile("no such folder", file=path)
    index = path / "model_index.json"
    if index.is_file():
        return _pipeline(path, read_object(index))
    config = path / "config.json"
    if not config.is_file():
        raise MissingFile(
            "the folder has neither model_index.json nor config.json", file=path,
            hint="Name a diffusers pipeline folder, or one of its component folders.",
        )  # fmt: skip
    class_name = class_name_of(read_object(config))
    fallback = next((name for pattern, name in _ATTRIBUTES if re.search(pattern, class_name)), None)
    name = path.name if COMPONENT.fullmatch(path.name) else fallback
    if name is None:
        raise BaseMismatch(f"a {class_name or 'model'} is no model that adapters are for", file=path)
    return Architecture(class_name, {name: _component(path, class_name)})


def _pipeline(path: Path, index: dict[str, Any]) -> Architecture:
    components: dict[str, Model] = {}
    for name, entry in index.items():
        if not (COMPONENT.fullmatch(name) and isinstance(entry, list) and len(entry) == 2 and entry[1]):
            continue
        folder = path / name
        if folder.is_dir():
            components[name] = _component(folder, str(entry[1]))
    if not components:
        raise BaseMismatch("the pipeline folder has no UNet, transformer or text encoder", file=path)
    return Architecture(str(index.get("_class_name") or "custom"), components, _prediction_type(path))


def _component(folder: Path, class_name: str) -> Model:
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder):
        shapes.update({name: tensor.shape for name, tensor in read_safetensors(file).tensors.items()})
    frozen = {frozen_path(name, class_name): shape for name, shape in shapes.items()}
    return Model(class_name, modules_from_shapes(frozen))


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a component's folder: the shards of its index, or the one file; a plain name first.

    Raises:
        MissingFile: there are none.
        FormatError: an index without a weight_map.
    """
    # Shortest first: model.safetensors.index.json before model.safetensors.index.fp16.json.
    indices = sorted(folder.glob("*.safetensors.index*.json"), key=lambda path: (len(path.name), path.name))
    if indices:
        weight_map = read_object(indices[0]).get("weight_map")
        if not isinstance(weight_map, dict):
            raise FormatError("the index has no weight_map", file=indices[0])
        return [folder / name for name in sorted({Path(str(name)).name for name in weight_map.values()})]
    for stem in _WEIGHTS:
        found = [folder / f"{stem}.safetensors", *sorted(folder.glob(f"{stem}.*.safetensors"))]
        existing = [file for file in found if file.is_file()]
        if existing:
            return existing[:1]
    raise MissingFile(
        "the folder has no safetensors weights", file=folder, expected=f"{_WEIGHTS[0]}.safetensors",
        hint="Save the model again with safe_serialization=True.",
    )  # fmt: skip


def frozen_path(name: str, class_name: str) -> str:
    """The frozen name of a tensor: CLIP text encoders always carry ``text_model.``, whichever version saved them."""
    if class_name.startswith("CLIPText") and not name.startswith(("text_model.", "text_projection.")):
        return f"text_model.{name}"
    return name


def _prediction_type(path: Path) -> str | None:
    config = path / "scheduler" / "scheduler_config.json"
    value = read_object(config, finite=False).get("prediction_type") if config.is_file() else None
    return value if isinstance(value, str) else None


def class_name_of(config: dict[str, Any]) -> str:
    """The class that a component's configuration names, as diffusers or transformers writes it; else empty."""
    names = config.get("architectures")
    return str(config.get("_class_name") or (names[0] if isinstance(names, list) and names else ""))


def read_object(path: Path, *, finite: bool = True) -> dict[str, Any]:
    """A small JSON file that holds one object; all its numbers are finite, if asked for.

    Raises:
        FileAccessError: not readable.
        FormatError: not JSON, or no object.
    """
    try:
        if (size := path.stat().st_size) > OBJECT_LIMIT:
            raise FormatError(
                "is larger than any real configuration", file=path, expected=f"at most {OBJECT_LIMIT} bytes", found=size
            )
        raw = path.read_bytes()
    except OSError as error:
        raise FileAccessError(f"cannot be read: {error.strerror}", file=path) from error
    value = parse_json(raw, file=path, what="the file", finite=finite)
    if not isinstance(value, dict):
        raise FormatError("is not a JSON object", file=path)
    return value
