"""The way back: a converted adapter in the names, shapes and alphas of the file that it came from."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy

from si_hub.adapter import Adapter, Component, Layer
from si_hub.architectures import Architecture
from si_hub.architectures.model import Model, unfold
from si_hub.architectures.namings import LAYOUTS
from si_hub.errors import ConversionRefused
from si_hub.exporting.joining import join_layers, slice_module
from si_hub.exporting.spelling import name_tensors
from si_hub.storage.tensors import DTYPE_SIZES, Tensor

#: Slot of a source's module → the leaf that has its bytes. What is computed while converting has no way back.
_LEAVES = {
    "down": "down.weight", "up": "up.weight", "diff": "weight_delta", "diff_b": "bias_delta", "up_bias": "bias_delta",
    "w_norm": "weight_delta", "b_norm": "bias_delta", "lokr_w1": "kron", "lokr_w2": "weight_delta",
    "mid": "core.weight", "lokr_w2_a": "up.weight", "lokr_w2_b": "down.weight", "ia3": "gain",
}  # fmt: skip
_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}
_Rule = Mapping[str, Any]


@dataclass(slots=True)
class Original:
    """A component in the source's words.

    Attributes:
        tensors: every tensor of the source, by name.
        layers: by the source's names of its modules, without their prefix.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    layers: dict[str, Layer] = field(default_factory=dict)


def spell_back(adapter: Adapter, base: Architecture) -> dict[str, Original]:
    """What the source had, by component.

    Raises:
        ConversionRefused: the document does not say how it was written, or numbers were computed of the source's.
    """
    rules = adapter.about.get("provenance", {}).get("layout")
    if not isinstance(rules, Mapping) or not rules:
        raise ConversionRefused(
            "was not converted from another format, or does not say how that was written",
            hint="Name a format: kohya, diffusers, peft or comfy",
        )
    found: dict[str, Original] = {}
    for name, component in adapter.components.items():
        if component.embeddings or name not in rules:
            raise ConversionRefused("the document does not say how it was written", key=name, hint="Name a format")
        held = found[name] = Original()
        for prefix, body, layer, slots, rule in _spell_component(component, base.components[name], rules[name]):
            held.tensors |= name_tensors(prefix + body, slots, rule["suffixes"])
            held.layers[body] = layer
    return found


def _spell_component(
    component: Component, model: Model, rules: list[_Rule]
) -> Iterator[tuple[str, str, Layer, dict[str, Tensor], _Rule]]:
    """Modules: prefix, the rest of the name, the layer, its tensors by slot, and the rule they are written by."""
    main, *others = rules
    if any(not isinstance(rule["modules"], list) for rule in others):
        raise ConversionRefused("its source was written too irregularly to be written again", hint="Name a format")
    special = {path: rule for rule in others for pattern in rule["modules"] for path in unfold(pattern)}
    left = dict.fromkeys(component.layers)
    for layout in dict.fromkeys(rule["layout"] for rule in rules):
        for name, parts in LAYOUTS[layout](model).items():
            rule = special.get(parts[0].path, main)
            if rule["layout"] != layout or not {part.path for part in parts} <= left.keys():
                continue
            body = name.replace(".", "_") if rule["prefix"].endswith("_") else name
            slices, shape = slice_module(parts, model.modules, component.layers)
            layer = join_layers(name, slices, shape)
            yield rule["prefix"], body, layer, _spell_module(parts[0].path, layer, shape, rule), rule
            for part in parts:
                del left[part.path]
    if left:
        raise ConversionRefused("the document does not say how it was written", key=next(iter(left)))


def _spell_module(path: str, layer: Layer, shape: tuple[int, ...], rule: _Rule) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    taken: set[str] = set()
    for slot in rule["suffixes"]:
        if slot == "alpha":
            continue
        leaf = _LEAVES.get(slot, "")
        leaf = {"weight_delta": "param_delta"}.get(leaf, leaf) if "param_delta" in layer.tensors else leaf
        leaf = "gain_in" if slot == "ia3" and "gain_in" in layer.tensors else leaf
        tensor = layer.tensors.get(leaf)
        # PEFT scales the bias of a pair with it: that of the file is gone unless the scale is 1.
        if tensor is None or (slot == "up_bias" and layer.scale != 1):
            raise ConversionRefused(
                f"its {slot} became something else when it was converted", key=path,
                hint="Name a format, or keep the source",
            )  # fmt: skip
        taken.add(leaf)
        found[slot] = _reshape(slot, leaf, tensor, shape, rule)
    if extra := sorted(layer.tensors.keys() - taken):
        raise ConversionRefused(
            "was computed of its source's tensors, which are not there any more", key=path,
            found=", ".join(extra), hint="Name a format, or keep the source",
        )  # fmt: skip
    if "alpha" in rule["suffixes"]:
        found["alpha"] = _spell_alpha(layer, rule)
    return found


def _reshape(slot: str, leaf: str, tensor: Tensor, shape: tuple[int, ...], rule: _Rule) -> Tensor:
    """A tensor in the axes that the source had: a convolution's for a linear layer, the reverse, or laid flat."""
    if slot == "ia3":
        # PEFT's own shapes: a column for outputs, a row for inputs, and of a convolution always the channels' axis.
        if len(shape) > 2:
            return tensor.reshape(1, tensor.count, *(1 for _ in shape[2:]))
        return tensor.reshape(*((tensor.count, 1) if leaf == "gain" else (1, tensor.count)))
    if slot in {"down", "up"}:
        axes = rule.get("axes") or (len(shape), len(shape))
        return _with_axes(tensor, axes[slot == "up"])
    if slot in {"lokr_w2", "lokr_w2_b"} and rule.get("axes"):
        return _with_axes(tensor, rule["axes"][0])
    return tensor


def _with_axes(tensor: Tensor, axes: int) -> Tensor:
    """The same numbers with this many axes: the last ones joined, or ones behind them."""
    shape = tensor.shape
    if len(shape) > axes:
        return tensor.reshape(*shape[: axes - 1], math.prod(shape[axes - 1 :]))
    return tensor.reshape(*shape, *(1 for _ in range(axes - len(shape))))


def _spell_alpha(layer: Layer, rule: _Rule) -> Tensor:
    """alpha in the dtype and shape of the source, ``F16 [1]``."""
    dtype, _, axes = str(rule["alpha"]).partition(" ")
    shape = tuple(int(size) for size in axes.strip("[]").split(",") if size.strip())
    alpha = float(layer.rank if layer.alpha is None else layer.alpha)
    alpha = 0.0 if rule.get("zero") else float(rule["value"]) if rule.get("value") else alpha
    if dtype == "BF16":
        raw = struct.pack("<f", alpha)[2:]
    elif dtype in _NUMPY:
        raw = numpy.array(alpha).astype(_NUMPY[dtype]).tobytes()
    else:
        raise ConversionRefused("its alphas have a dtype that is not written again", found=dtype, hint="Name a format")
    count = int(numpy.prod(shape, dtype=int))
    assert len(raw) == DTYPE_SIZES[dtype]
    return Tensor.from_bytes(dtype, shape, raw * count)
