"""Layers joined to the fused module that another program has in their place, exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy

from si_hub.adapter import Layer
from si_hub.architectures.layouts import Part
from si_hub.architectures.model import Module
from si_hub.converters.folding import fold_core
from si_hub.errors import ConversionRefused
from si_hub.storage.tensors import DTYPE_SIZES, Tensor

#: Leaves that are joined; what else a layer may have acts on inputs or outputs that a fused module shares.
JOINED = {"down.weight", "up.weight", "weight_delta", "bias_delta", "kron"}


@dataclass(frozen=True, slots=True)
class Slice:
    """One part of a fused module: its rows of the output, and the layer there, where there is one."""

    path: str
    rows: tuple[tuple[int, int], ...]
    layer: Layer | None


def slice_module(
    parts: Sequence[Part], modules: Mapping[str, Module], layers: Mapping[str, Layer]
) -> tuple[list[Slice], tuple[int, ...]]:
    """The parts of a source module, and the shape of its weight."""
    shape = modules[parts[0].path].shape
    slices = [Slice(part.path, part.rows or ((0, shape[0]),), layers.get(part.path)) for part in parts]
    out = max(stop for one in slices for _, stop in one.rows)
    return slices, (out, *shape[1:])


def join_layers(stem: str, slices: Sequence[Slice], shape: tuple[int, ...]) -> Layer:
    """One layer over all rows: a shared ``down`` stays one, others are stacked with zeros beside their ``up``.

    Args:
        stem: the fused module, for messages.
        shape: of its weight.

    Raises:
        ConversionRefused: leaves that a fused module cannot hold.
    """
    if len(slices) == 1 and slices[0].layer is not None and slices[0].rows == ((0, shape[0]),):
        return slices[0].layer
    slices = [replace(one, layer=one.layer and fold_core(one.layer)) for one in slices]
    held = [(one, one.layer) for one in slices if one.layer is not None]
    for one, layer in held:
        if extra := sorted(layer.tensors.keys() - JOINED):
            raise ConversionRefused(
                "is part of a fused module there, which cannot hold this", key=one.path, found=", ".join(extra),
                hint=f"Choose a format with modules of their own instead of {stem}",
            )  # fmt: skip
    leaves: dict[str, Tensor] = {}
    alpha: float | None = None
    if any("kron" in layer.tensors for _, layer in held):
        leaves, alpha = _join_products(stem, slices)
    else:
        if any(layer.rank for _, layer in held):
            leaves, alpha = _join_pairs(slices, shape)
        if any("weight_delta" in layer.tensors for _, layer in held):
            leaves["weight_delta"] = _stack(slices, "weight_delta", shape[1:])
    if any("bias_delta" in layer.tensors for _, layer in held):
        leaves["bias_delta"] = _stack(slices, "bias_delta", ())
    return Layer(leaves, alpha)


def _join_pairs(slices: Sequence[Slice], shape: tuple[int, ...]) -> tuple[dict[str, Tensor], float | None]:
    held = [(one, one.layer) for one in slices if one.layer is not None and one.layer.rank]
    first = held[0][1]
    scales = {layer.scale for _, layer in held}
    downs = [layer.tensors["down.weight"] for _, layer in held]
    if len(held) == len(slices) and len(scales) == 1 and all(_same(downs[0], down) for down in downs):
        return {"down.weight": downs[0], "up.weight": _stack(slices, "up.weight", (first.rank,))}, first.alpha
    ups = [layer.tensors["up.weight"] for _, layer in held]
    rank = sum(layer.rank for _, layer in held)
    dtypes = {tensor.dtype for tensor in (*downs, *ups)}
    if len(dtypes) > 1 or len(scales) > 1:
        downs = [as_single(down) for down in downs]
        ups = [
            as_single(up, 1.0 if len(scales) == 1 else layer.scale) for up, (_, layer) in zip(ups, held, strict=True)
        ]
    at, pieces = 0, []
    for (one, layer), up in zip(held, ups, strict=True):
        pieces += [(start, rows, at) for start, rows in _spans(one, up)]
        at += layer.rank
    alpha = next(iter(scales)) * rank if len(scales) == 1 else None
    down = Tensor.concatenate([down.reshape(down.shape[0], *shape[1:]) for down in downs])
    return {"down.weight": down, "up.weight": _lay_blocks(pieces, (shape[0], rank))}, alpha


def _lay_blocks(pieces: Sequence[tuple[int, Tensor, int]], shape: tuple[int, int]) -> Tensor:
    """Zeros with each tensor from its row and column on, in the tensors' own dtype."""
    dtype = pieces[0][1].dtype
    whole = numpy.zeros((*shape, DTYPE_SIZES[dtype]), numpy.uint8)
    for row, tensor, column in pieces:
        rows, columns = tensor.shape
        raw = numpy.frombuffer(tensor.tobytes(), numpy.uint8).reshape(rows, columns, -1)
        whole[row : row + rows, column : column + columns] = raw
    return Tensor.from_bytes(dtype, shape, whole.tobytes())


def _join_products(stem: str, slices: Sequence[Slice]) -> tuple[dict[str, Tensor], float | None]:
    """Kronecker products with one right factor: rows of the left one, stacked."""
    layers = [one.layer for one in slices if one.layer is not None and "kron" in one.layer.tensors]
    rights = [{leaf: layer.tensors[leaf] for leaf in layer.tensors if leaf in JOINED - {"kron", "bias_delta"}}
              for layer in layers]  # fmt: skip
    alike = all(
        right.keys() == rights[0].keys() and all(_same(right[leaf], rights[0][leaf]) for leaf in right)
        for right in rights
    )
    if len(layers) < len(slices) or not alike or len({layer.scale for layer in layers}) > 1:
        raise ConversionRefused(
            "its parts are Kronecker products of different factors, which are no one product", key=stem,
            hint="Choose a format with modules of their own, or make pairs of them",
        )  # fmt: skip
    size = (rights[0].get("up.weight") or rights[0]["weight_delta"]).shape[0]
    spans = sorted(
        (start // size, rows)
        for one, layer in zip(slices, layers, strict=True)
        for start, rows in _spans(one, layer.tensors["kron"], size)
    )
    return {**rights[0], "kron": Tensor.concatenate([rows for _, rows in spans])}, layers[0].alpha


def _stack(slices: Sequence[Slice], leaf: str, inner: tuple[int, ...]) -> Tensor:
    """A leaf's rows of all parts in the order of the whole; zeros where a part has none."""
    held = [one.layer.tensors[leaf] for one in slices if one.layer is not None and leaf in one.layer.tensors]
    mixed = len({tensor.dtype for tensor in held}) > 1
    found: list[tuple[int, Tensor]] = []
    for one in slices:
        tensor = None if one.layer is None else one.layer.tensors.get(leaf)
        rows = sum(stop - start for start, stop in one.rows)
        shape = (rows, *inner)
        if tensor is None:
            dtype = "F32" if mixed else held[0].dtype
            count = int(numpy.prod(shape)) * DTYPE_SIZES[dtype]
            tensor = Tensor.from_bytes(dtype, shape, bytes(count))
        tensor = as_single(tensor) if mixed else tensor
        found += _spans(one, tensor.reshape(*shape))
    return Tensor.concatenate([rows for _, rows in sorted(found, key=lambda item: item[0])])


def _spans(one: Slice, tensor: Tensor, size: int = 1) -> Iterator[tuple[int, Tensor]]:
    """(first row in the whole, rows of the part) for each of its spans; a row of the tensor is ``size`` of them."""
    at = 0
    for start, stop in one.rows:
        count = (stop - start) // size
        yield start, tensor.rows(at, at + count)
        at += count


def _same(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are the same numbers: the same bytes of a file, or equal ones."""
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    return first.pieces == second.pieces or first.tobytes() == second.tobytes()


def as_single(tensor: Tensor, scale: float = 1.0) -> Tensor:
    """A tensor times a number, float32."""
    return Tensor.compute(tensor.shape, lambda: tensor.torch().double() * scale)
