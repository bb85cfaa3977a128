"""Float8 weights with a scale beside them, as ComfyUI stores them: product, not factor, is the weight.

Two spellings: ``X.scale_weight`` with ``X.scale_input``, and ``X.weight_scale`` with ``X.input_scale`` and
``X.comfy_quant``, whose bytes are JSON that names the form. Every other form (packed in four bits, int8, rotated, in
blocks) is refused by its name: read as plain numbers it would be another model.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from si_hub.distill.pair.weights import Weight
from si_hub.errors import ConversionRefused, FormatError

if TYPE_CHECKING:
    from si_hub.distill.pair.deferred import Deferred

#: What a weight's scale is called.
_SCALES = (".scale_weight", ".weight_scale")
#: What else stands beside a float8 weight: how to compute with it, which a product does not need.
_SETTINGS = (".scale_input", ".input_scale", ".comfy_quant")
_MARK = ".comfy_quant"
#: ``format`` of a mark → how such a weight is stored.
_FORMS = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}
#: What a mark says besides, that changes no number.
_HARMLESS = frozenset({"format", "full_precision_matrix_mult", "orig_dtype", "orig_shape"})
#: The key of the header's metadata that says for all layers what marks say for one.
METADATA = "_quantization_metadata"
#: Bytes of a mark; real ones have thirty.
_MARK_LIMIT = 4096
_HINT = "Take the model's release in bfloat16, float16 or scaled float8."


def check_scaled(path: Path, held: Mapping[str, Weight], metadata: Mapping[str, str]) -> None:
    """Refuse a checkpoint whose weights are stored in a form that is not read exactly; torch is not needed.

    Args:
        path: the file, for messages.
        held: its weights by its own names.
        metadata: of its header.

    Raises:
        ConversionRefused: packed, rotated or in blocks; a scale that is not one for all, or one a row.
        FormatError: a mark that is no JSON.
    """
    for stem, said in (*_metadata_marks(path, metadata), *_marks(path, held)):
        weight = held.get(f"{stem}.weight")
        if weight is not None and (form := _unread_form(said, weight.dtype)):
            raise _refused(path, f"{stem}.weight", form)
    for name, weight in held.items():
        stem, suffix = _cut(name)
        if name.endswith(".weight_scale_2") and f"{name.removesuffix('.weight_scale_2')}.weight" in held:
            raise _refused(path, f"{name.removesuffix('.weight_scale_2')}.weight", "nvfp4")
        if suffix in _SCALES and (scaled := held.get(f"{stem}.weight")):
            if not scaled.dtype.startswith("F8_E") or scaled.dtype == "F8_E8M0":
                raise _refused(path, f"{stem}.weight", f"{scaled.dtype} with a scale")
            if _broadcast(weight.shape, scaled.shape) is None:
                raise _refused(path, name, f"scales {list(weight.shape)} for a weight {list(scaled.shape)}")


def scales_of(held: Collection[str]) -> dict[str, str]:
    """Scales of a file → the weights that they are of."""
    cuts = ((name, *_cut(name)) for name in held)
    return {name: f"{stem}.weight" for name, stem, suffix in cuts if suffix in _SCALES and f"{stem}.weight" in held}


def with_scales(tensors: Mapping[str, Deferred]) -> dict[str, Deferred]:
    """Weights with their scales as products in float32, without what stands beside them; a copy either way."""
    scales = scales_of(tensors)
    settings = {name for name in tensors if _cut(name)[1] in _SETTINGS and f"{_cut(name)[0]}.weight" in tensors}
    found = {name: tensor for name, tensor in tensors.items() if name not in scales and name not in settings}
    for name, weight in scales.items():
        scale: Any = tensors[name].float()
        shape = _broadcast(tuple(scale.shape), tuple(found[weight].shape))
        found[weight] = found[weight].float() * scale.reshape(shape)
    return found


def _unread_form(said: Any, dtype: str) -> str | None:
    """What a mark says of a weight, where that is not float8 times a scale."""
    said = said if isinstance(said, dict) else {}
    form = said.get("format")
    others = [key for key, value in said.items() if key not in _HARMLESS and value]
    if others:
        return f"{form} with {', '.join(others)}"
    return None if isinstance(form, str) and _FORMS.get(form) == dtype else f"{form} in {dtype}"


def _cut(name: str) -> tuple[str, str]:
    """``X`` and ``.weight_scale`` of what stands beside ``X.weight``; no suffix for all else."""
    suffix = next((suffix for suffix in (*_SCALES, *_SETTINGS) if name.endswith(suffix)), "")
    return name.removesuffix(suffix), suffix


def _broadcast(scale: tuple[int, ...], weight: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape in which a scale is multiplied: one number, or one for each output; None for anything else."""
    ones = (1,) * len(weight)
    if all(size == 1 for size in scale):
        return ones
    return (weight[0], *ones[1:]) if weight and scale in ((weight[0],), (weight[0], *ones[1:])) else None


def _marks(path: Path, held: Mapping[str, Weight]) -> Iterator[tuple[str, Any]]:
    for name, weight in held.items():
        if name.endswith(_MARK):
            if weight.dtype != "U8" or weight.count > _MARK_LIMIT:
                found = f"{weight.dtype} {list(weight.shape)}"
                raise FormatError("says in no known way how a weight is stored", file=path, key=name, found=found)
            raw = weight.tensor.tobytes() if weight.tensor else bytes(weight.torch().reshape(-1).tolist())
            yield name.removesuffix(_MARK), _parse(path, name, raw)


def _metadata_marks(path: Path, metadata: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    if METADATA in metadata:
        said = _parse(path, METADATA, metadata[METADATA])
        layers = said.get("layers") if isinstance(said, dict) else None
        yield from layers.items() if isinstance(layers, dict) else ()


def _parse(path: Path, key: str, raw: bytes | str) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FormatError("says how weights are stored, and is no JSON", file=path, key=key) from error


def _refused(path: Path, key: str, found: str) -> ConversionRefused:
    return ConversionRefused(
        "is quantised in a form that is not read", file=path, key=key,
        expected="float8 with one scale, or one for each output", found=found, hint=_HINT,
    )  # fmt: skip
