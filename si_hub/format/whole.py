"""Pairs of whole numbers of one byte: half of float16's bytes, float32 numbers for everybody but the file.

A layer whose ``down.weight`` and ``up.weight`` are `Tensor.scaled` is written as I8 with ``down.scale``, the feature
``int8`` of docs/FORMAT.md, and read back as that; whatever changes or copies their numbers makes plain floats of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from si_hub.adapter import Component
from si_hub.errors import DocumentError, LayerShapeError, LeafDtypeError, MissingTensor
from si_hub.storage.tensors import Tensor

if TYPE_CHECKING:
    import torch

#: What a document requires whose file has such pairs.
INT8 = "int8"
DOWN, UP, SCALE = "down.weight", "up.weight", "down.scale"


def whole_pair(down: torch.Tensor, up: torch.Tensor) -> tuple[Tensor, Tensor]:
    """The nearest pair of whole numbers: each row of down, and each column of up, from -127 to 127 of its largest.

    Args:
        down: ``[n · rank, in, *kernel]``, finite.
        up: ``[out, rank]``; its columns' scales go into those of the rows of down.
    """
    rows, columns = down.float().flatten(1), up.float()
    # A row of zeros is zeros, whatever its scale.
    sizes = [values.abs().amax(axis).clamp(min=1e-30) / 127.0 for values, axis in ((rows, 1), (columns, 0))]
    whole = [(rows / sizes[0][:, None]).round().char(), (columns / sizes[1]).round().char()]
    scale = sizes[0] * sizes[1].repeat(len(rows) // up.shape[1])
    return (
        Tensor.scaled(Tensor.from_torch(whole[0].reshape(down.shape)), Tensor.from_torch(scale)),
        Tensor.scaled(Tensor.from_torch(whole[1])),
    )


def is_whole(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a layer's pair is written as whole numbers."""
    down, up = (tensors[leaf].unscaled if leaf in tensors else None for leaf in (DOWN, UP))
    return down is not None and up is not None and down.scale is not None and up.scale is None


def requires(components: Iterable[Component]) -> list[str]:
    """What of later versions a file of these components needs."""
    return [INT8] if any(is_whole(layer.tensors) for one in components for layer in one.layers.values()) else []


def to_file(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A layer's tensors as a file has them."""
    if not is_whole(tensors):
        return dict(tensors)
    down, up = tensors[DOWN].unscaled, tensors[UP].unscaled
    assert down is not None
    assert down.scale is not None
    assert up is not None
    return {**tensors, DOWN: down.whole, SCALE: down.scale, UP: up.whole}


def from_file(tensors: Mapping[str, Tensor], name: str, required: Iterable[str], file: Path) -> dict[str, Tensor]:
    """A layer's tensors as everybody but the file has them; ``name`` is ``{component}.{module path}``.

    Raises:
        MissingTensor, LeafDtypeError, LayerShapeError: a scale without its pair of whole numbers.
        DocumentError: the document does not require what is used.
    """
    scale = tensors.get(SCALE)
    if scale is None:
        return dict(tensors)
    for leaf in (DOWN, UP):
        if leaf not in tensors:
            raise MissingTensor("half of a low-rank pair is missing", file=file, key=f"{name}.{leaf}")
        if tensors[leaf].dtype != "I8":
            raise LeafDtypeError(
                "beside a scale is whole numbers", file=file, key=f"{name}.{leaf}", expected="I8",
                found=tensors[leaf].dtype,
            )  # fmt: skip
    if scale.dtype != "F32":
        raise LeafDtypeError(
            "a scale has another dtype", file=file, key=f"{name}.{SCALE}", expected="F32", found=scale.dtype
        )
    if not tensors[DOWN].shape or scale.shape != tensors[DOWN].shape[:1]:
        raise LayerShapeError(
            "a scale is one number for each row of down.weight", file=file, key=f"{name}.{SCALE}",
            expected=list(tensors[DOWN].shape[:1]), found=list(scale.shape),
        )  # fmt: skip
    if INT8 not in required:
        raise DocumentError(f"does not say that {name}.{SCALE} is needed", file=file, key="requires", expected=INT8)
    kept = {leaf: tensor for leaf, tensor in tensors.items() if leaf != SCALE}
    return {**kept, DOWN: Tensor.scaled(tensors[DOWN], scale), UP: Tensor.scaled(tensors[UP])}
