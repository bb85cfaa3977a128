"""OFT of PEFT: W' = W R, with block rotations on the input axis, stored as their upper triangles.

It is PEFT's merge that is meant: its forward of a convolution adds up overlapping patches, which is no weight's change.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from si_hub.architectures.layouts import Part
from si_hub.architectures.model import Module
from si_hub.converters.dense import BaseModule, Difference
from si_hub.converters.families.by_peft import differ_by_peft
from si_hub.converters.families.contract import Family, Lowered, Slots, SourceModule, Target, lower_whole
from si_hub.converters.families.shapes import check_matrix
from si_hub.converters.naming.suffixes import spell
from si_hub.storage.tensors import Tensor

if TYPE_CHECKING:
    import torch

_NAMES = {"oft_r": (".oft_R.weight",), "oft_embedding_r": (".oft_embedding_R.weight",)}


def check(module: SourceModule, target: Target) -> None:
    """Raise BaseMismatch where ``n`` triangles of ``b (b - 1) / 2`` do not cover the inputs: n · b = in · kernel.

    One triangle may be shared by all blocks, and then says nothing.
    """
    slot = _slot(module)
    blocks = module.tensors[slot].shape
    said = None
    if len(blocks) == 2 and blocks[0] != 1:
        said = slot, blocks[0] * _block_size(blocks[1])
    check_matrix(module, target, None, said)


def _block_size(triangle: int) -> int:
    """b of a triangle of b (b - 1) / 2 numbers."""
    return (1 + math.isqrt(1 + 8 * triangle)) // 2


def _slot(module: SourceModule) -> str:
    return next(iter(_NAMES.keys() & module.tensors.keys()))


def differ(module: SourceModule, target: Target, own: BaseModule | None) -> Difference:
    """The weight turned by PEFT's own layer, less the weight."""
    assert own is not None, "it is a function of the base's weight"
    return differ_by_peft(module, target, own, "OFT", _NAMES)


#: Blocks that PEFT is asked for at once have about so many inputs together.
_INPUTS = 512


def _size(module: SourceModule, target: Target) -> int | None:
    """The size of blocks where they are smaller than the weight, and PEFT turns each by itself; else none."""
    shape, config = module.tensors[_slot(module)].shape, module.config or {}
    if len(shape) != 2 or target.kind not in {"linear", "conv"} or math.prod(target.shape[2:]) > 1:
        return None
    size = _block_size(shape[1])
    # What holds rotations near the identity (coft) holds all blocks of a layer together.
    alone = not config.get("coft") and size * (size - 1) // 2 == shape[1] and target.shape[1] % size == 0
    return size if alone and size < target.shape[0] else None


def needs_base(module: SourceModule, target: Target) -> bool:
    """Whether the base's numbers are needed: of a weight that is not larger than the blocks, and of kernels."""
    return _size(module, target) is None


def lower(module: SourceModule, target: Target, own: BaseModule | None) -> Lowered:
    """The rotations as blocks on the inputs, ``turn_in``: what PEFT makes of an identity in the weight's place."""
    size = _size(module, target)
    if size is None:
        return lower_whole(differ(module, target, own), target)
    slot, count = _slot(module), target.shape[1] // size
    rotations = module.tensors[slot]
    at_once = max(1, _INPUTS // size)

    def turn() -> torch.Tensor:
        import torch

        rows = rotations.shape[0]
        found = [
            _turn_identity(module, slot, rotations.rows(start, min(start + at_once, rows)), size)
            for start in range(0, rows, at_once)
        ]
        return torch.cat(found).expand(count, size, size).contiguous()

    return Lowered({"turn_in": Tensor.compute((count, size, size), turn)})


def _turn_identity(module: SourceModule, slot: str, rotations: Tensor, size: int) -> torch.Tensor:
    """R - I of each of these blocks, float64, ``[blocks, size, size]``."""
    import torch

    width, count = rotations.shape[0] * size, rotations.shape[0]
    identity = Tensor.from_torch(torch.eye(width, dtype=torch.float64))
    modules = {"layer": Module("linear", (width, width))}
    own = BaseModule({"": {"layer.weight": identity}}, "", (Part("layer"),), modules, module.file, module.stem)
    part = replace(module, tensors={slot: rotations})
    sizes = {"oft_block_size": size, "r": 0}
    change = differ_by_peft(part, Target("linear", (width, width), False), own, "OFT", _NAMES, sizes=sizes).weight
    assert change is not None, "a weight is turned"
    blocks = change().reshape(count, size, count, size)
    return torch.stack([blocks[at, :, at] for at in range(count)])


FAMILY = Family(
    "oft-peft", "OFT of PEFT", Slots.of(has_any="oft_r oft_embedding_r"), check, differ,
    spell("peft", named=True, oft_r=".oft_R .oft_R.weight", oft_embedding_r=".oft_embedding_R.weight"),
    lower=lower, needs_base=needs_base,
)  # fmt: skip
