"""Checkpoints under original names, made from diffusers' names by the house's own layouts; sparse files of any size."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from si_hub.architectures.layouts import Names, Part
from si_hub.architectures.model import Model, modules_from_shapes

Shape = tuple[int, ...]
DTYPES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.float8_e4m3fn: "F8_E4M3",
}  # fmt: skip
#: Norms whose weight the original code calls ``scale``.
SCALE = re.compile(r".*(?:query_norm|key_norm)")


def write(path: Path, tensors: Mapping[str, torch.Tensor | Shape], metadata: Mapping[str, str] | None = None) -> Path:
    """A safetensors file; bare shapes are fp16 zeros that take no room on the disk."""
    header: dict[str, Any] = {"__metadata__": dict(metadata or {})}
    end = 0
    for name, value in tensors.items():
        shape, dtype = (value, torch.float16) if isinstance(value, tuple) else (tuple(value.shape), value.dtype)
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
        for name, value in tensors.items():
            if isinstance(value, torch.Tensor):
                file.seek(8 + len(text) + header[name]["data_offsets"][0])
                file.write(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return path


def shapes_of(model: Model) -> dict[str, Shape]:
    """Parameters of a model under diffusers' names."""
    found: dict[str, Shape] = {}
    for path, module in model.modules.items():
        found[path if module.kind == "parameter" else f"{path}.weight"] = module.shape
        if module.bias:
            found[f"{path}.bias"] = module.shape[:1]
    return found


def model_of(class_name: str, tensors: Mapping[str, torch.Tensor]) -> Model:
    """The table of a live model's modules."""
    return Model(class_name, modules_from_shapes({name: tuple(value.shape) for name, value in tensors.items()}))


def original(
    names: Names, tensors: Mapping[str, torch.Tensor | Shape], prefix: str = ""
) -> dict[str, torch.Tensor | Shape]:
    """A denoiser's parameters under a layout's names: parts joined and rows swapped as the original has them."""
    found: dict[str, torch.Tensor | Shape] = {}
    for source, parts in names.items():
        for leaf in ("weight", "bias"):
            held = [tensors[f"{part.path}.{leaf}"] for part in parts if f"{part.path}.{leaf}" in tensors]
            name = "scale" if SCALE.fullmatch(source) else leaf
            if len(held) == len(parts):
                found[f"{prefix}{source}.{name}"] = _joined(parts, held)
    return found


def _joined(parts: tuple[Part, ...], held: list[torch.Tensor | Shape]) -> torch.Tensor | Shape:
    if len(parts) == 1 and parts[0].rows is None:
        return held[0]
    rows = sum(len(value) if isinstance(value, torch.Tensor) else value[0] for value in held)
    first = held[0]
    if isinstance(first, tuple):
        return (rows, *first[1:])
    whole = first.new_empty(rows, *first.shape[1:])
    for part, value in zip(parts, held, strict=True):
        assert isinstance(value, torch.Tensor)
        at = 0
        for start, stop in part.rows or ((0, len(value)),):
            whole[start:stop] = value[at : at + stop - start]
            at += stop - start
    return whole


_OPEN_CLIP = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip


def open_clip(tensors: Mapping[str, torch.Tensor | Shape], prefix: str) -> dict[str, torch.Tensor | Shape]:
    """A CLIP text encoder's parameters under OpenCLIP's names, q, k and v in one matrix, the projection transposed."""
    found: dict[str, torch.Tensor | Shape] = {}
    for name, value in tensors.items():
        if name in _OPEN_CLIP:
            found[prefix + _OPEN_CLIP[name]] = value
        elif name == "text_projection.weight":
            found[f"{prefix}text_projection"] = value[::-1] if isinstance(value, tuple) else value.T.contiguous()
        elif match := re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
            layer, module, leaf = f"{prefix}transformer.resblocks.{match[1]}.", match[2], match[3]
            if module in _OPEN_CLIP_LAYER:
                found[f"{layer}{_OPEN_CLIP_LAYER[module]}.{leaf}"] = value
            elif module == "self_attn.q_proj":
                three = [tensors[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
                joined: Any = (3 * value[0], *value[1:]) if isinstance(value, tuple) else torch.cat(three)  # type: ignore[arg-type]
                found[f"{layer}attn.in_proj_{leaf}"] = joined
    return found


def prefixed(tensors: Mapping[str, torch.Tensor | Shape], prefix: str) -> dict[str, torch.Tensor | Shape]:
    """The same under a prefix."""
    return {prefix + name: value for name, value in tensors.items()}
