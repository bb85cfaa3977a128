"""OFT and BOFT of LyCORIS and kohya: W' = R W, with block rotations on the output axis (arXiv 2306.07280, 2311.06243).

Every block is a rotation by Cayley's formula, R = (I + Q)(I - Q)⁻¹ of a skew-symmetric Q = B - Bᵀ; R - I is computed
as 2 Q (I - Q)⁻¹, without a difference of nearly equal numbers. Biases are left as they are.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from si_hub.converters.dense import BaseModule, Difference, as_double
from si_hub.converters.families.contract import Family, Lowered, Slots, SourceModule, Target, lower_whole
from si_hub.converters.families.scales import read_limit
from si_hub.converters.families.shapes import check_matrix, misfit
from si_hub.converters.naming.suffixes import spell
from si_hub.errors import LayerShapeError
from si_hub.storage.tensors import Tensor

if TYPE_CHECKING:
    import torch

#: Kinds of base modules whose outputs can be turned.
_TURNED = {"linear", "conv"}
_NUMBERED = "oft_blocks_0 oft_blocks_1 oft_blocks_2 oft_blocks_3"


def check(module: SourceModule, target: Target) -> None:
    """Raise where blocks ``(m,) n, b, b`` do not cover the outputs of the base module: n · b = out.

    kohya's numbered blocks each cover one part of a fused module.

    Raises:
        LayerShapeError: blocks that are no squares.
        BaseMismatch: they do not fit.
    """
    blocks = _blocks(module)
    for slot, tensor in blocks.items():
        if not 3 <= len(tensor.shape) <= 4 or tensor.shape[-1] != tensor.shape[-2]:
            raise LayerShapeError(
                "rotations are square blocks", file=module.file, key=module.names[slot],
                expected="[blocks, size, size] or [stages, blocks, size, size]", found=list(tensor.shape),
            )  # fmt: skip
    rows = [math.prod(tensor.shape[-3:-1]) for tensor in blocks.values()]
    check_matrix(module, target, (next(iter(blocks)), sum(rows)), None)
    for slot, tensor in blocks.items():
        _check_stages(module, slot, tensor)
    if "rescale" in module.tensors and module.tensors["rescale"].count != target.shape[0]:
        found = list(module.tensors["rescale"].shape)
        raise misfit(module, "rescale", "output", target.shape[0], found, target)


def _check_stages(module: SourceModule, slot: str, tensor: Tensor) -> None:
    """Raise LayerShapeError for a butterfly with more stages than its rows have halves."""
    stages, rows, size = tensor.shape[0], math.prod(tensor.shape[-3:-1]), tensor.shape[-1]
    if (
        len(tensor.shape) == 4
        and stages
        and (size % 2 or not size or rows % size or (rows // size) % 2 ** min(stages - 1, 64))
    ):
        raise LayerShapeError(
            "a butterfly of blocks of this size has fewer stages", file=module.file, key=module.names[slot],
            expected="[stages, blocks, size, size], size even, 2 ** (stages - 1) dividing blocks",
            found=list(tensor.shape),
        )  # fmt: skip


def _blocks(module: SourceModule) -> dict[str, Tensor]:
    """The tensors of rotations, in the order of the outputs that they are for."""
    return {slot: module.tensors[slot] for slot in sorted(module.tensors) if slot.startswith("oft_")}


def differ(module: SourceModule, target: Target, own: BaseModule | None) -> Difference:
    """The rotated weight, rescaled where the file says so, less the weight."""
    assert own is not None, "it is a function of the base's weight"

    def rotate() -> torch.Tensor:
        import torch

        weight = own.weight().flatten(1)
        blocks = _blocks(module)
        rows = torch.split(weight, [math.prod(tensor.shape[-3:-1]) for tensor in blocks.values()])
        turned = [
            _turn_stages(part, _cayley(module, tensor)) if len(tensor.shape) == 4
            else _turn_blocks(part, _turns(module, slot, tensor))
            for part, (slot, tensor) in zip(rows, blocks.items(), strict=True)
        ]  # fmt: skip
        change = torch.cat(turned)
        if "rescale" in module.tensors:
            factor = as_double(module.tensors["rescale"]).reshape(-1, 1)
            change = factor * change + (factor - 1) * weight
        return change.reshape(target.shape)

    return Difference(rotate)


def _size(tensor: Tensor) -> int:
    """Rows that are turned together, of the tensor's rotations: those of the last stage, of a butterfly."""
    size = tensor.shape[-1]
    return size if len(tensor.shape) == 3 else size * 2 ** (tensor.shape[0] - 1) if tensor.shape[0] else 1


def _shared_size(module: SourceModule, target: Target) -> int | None:
    """The size of blocks that all rotations of a module can be written in, where that is smaller than the weight.

    None of them may lie across two parts of a fused module.
    """
    blocks = _blocks(module).values()
    size = math.lcm(*map(_size, blocks))
    cuts = (*target.cuts, *(math.prod(tensor.shape[-3:-1]) for tensor in blocks))
    fits = size and not any(cut % size for cut in cuts) and size * target.shape[0] < target.count
    return size if fits and target.kind in _TURNED else None


def needs_base(module: SourceModule, target: Target) -> bool:
    """Whether the base's numbers are needed: of the bias, which is not turned, or of a weight that is as small."""
    return target.bias or _shared_size(module, target) is None


def lower(module: SourceModule, target: Target, own: BaseModule | None) -> Lowered:
    """The rotations as blocks on the outputs, ``turn``; whole where blocks are none, or are more than the weight.

    ``turn`` acts on the bias, which OFT leaves as it is: ``bias_delta`` takes that back.
    """
    size = _shared_size(module, target)
    if size is None:
        return lower_whole(differ(module, target, own), target)
    rows = target.shape[0]

    def turn() -> torch.Tensor:
        import torch

        found = torch.cat([_grow(_transpose_turns(module, slot, one), size) for slot, one in _blocks(module).items()])
        if "rescale" in module.tensors:
            factor = as_double(module.tensors["rescale"]).reshape(-1, size, 1)
            found = factor * found + torch.diag_embed((factor - 1).squeeze(-1))
        return found

    leaves = {"turn": Tensor.compute((rows // size, size, size), turn)}
    if target.bias:

        def take_back() -> torch.Tensor:
            assert own is not None, "a bias is the base's"
            return -(turn() @ own.bias().reshape(-1, size, 1)).flatten()

        leaves["bias_delta"] = Tensor.compute((rows,), take_back)
    return Lowered(leaves)


def _transpose_turns(module: SourceModule, slot: str, tensor: Tensor) -> torch.Tensor:
    """What the rows of each block are multiplied by, less the identity: ``[n, b, b]``, of a butterfly its product."""
    import torch

    if len(tensor.shape) == 3:
        return _turns(module, slot, tensor).mT
    rows, size = math.prod(tensor.shape[-3:-1]), _size(tensor)
    # Stages stay within these blocks: each block's product is what they make of its identity.
    identities = torch.eye(size, dtype=torch.float64).repeat(rows // size, 1)
    return _turn_stages(identities, _cayley(module, tensor)).reshape(-1, size, size)


def _grow(blocks: torch.Tensor, size: int) -> torch.Tensor:
    """The same matrix in larger blocks, with zeros beside those that it had."""
    import torch

    if blocks.shape[1] == size:
        return blocks
    groups = blocks.reshape(-1, size // blocks.shape[1], *blocks.shape[1:])
    return torch.stack([torch.block_diag(*group) for group in groups])  # type: ignore[no-untyped-call]


def _turns(module: SourceModule, slot: str, tensor: Tensor) -> torch.Tensor:
    """R - I of every block, ``[n, b, b]``; files of old versions hold R itself."""
    import torch

    if slot == "oft_diag":
        return as_double(tensor) - torch.eye(tensor.shape[-1], dtype=torch.float64)
    return _cayley(module, tensor)


def _cayley(module: SourceModule, tensor: Tensor) -> torch.Tensor:
    """R - I of every block; the norm of all Q together is held to alpha times the number of outputs."""
    import torch

    blocks = as_double(tensor)
    skew = blocks - blocks.mT
    limit = read_limit(module)
    if limit is not None:
        norm, most = float(skew.norm()), limit * math.prod(tensor.shape[-3:-1])
        if norm > most:
            skew = skew * (most / norm)
    turns: torch.Tensor = 2 * torch.linalg.solve(torch.eye(skew.shape[-1], dtype=skew.dtype) - skew, skew, left=False)
    return turns


def _turn_blocks(weight: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Rᵀ W - W, block by block of rows; it is the transpose by which both libraries turn."""
    return (turns.mT @ weight.reshape(*turns.shape[:2], -1)).reshape(weight.shape)


def _turn_stages(weight: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """A butterfly: stage i turns blocks of rows that lie 2^i · b / 2 apart."""
    size, turned = turns.shape[-1], weight
    for stage, blocks in enumerate(turns):
        step = 2**stage * (size // 2)
        # Rows (c, 2, step) → (c, step, 2), cut into blocks, and back.
        mixed = turned.reshape(-1, 2, step, weight.shape[1]).transpose(1, 2).reshape(len(blocks), size, -1)
        mixed = mixed + blocks @ mixed
        turned = mixed.reshape(-1, step, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
    return turned - weight


FAMILY = Family(
    "oft", "OFT or BOFT of LyCORIS or kohya",
    Slots.of(has_any=f"oft_blocks {_NUMBERED} oft_diag", may="rescale alpha"), check, differ,
    spell("lycoris", oft_blocks=".oft_blocks", oft_diag=".oft_diag", rescale=".rescale")
    # kohya's OFT of Flux numbers the blocks of a fused layer.
    | spell("kohya", oft_blocks_0=".oft_blocks.0", oft_blocks_1=".oft_blocks.1", oft_blocks_2=".oft_blocks.2",
            oft_blocks_3=".oft_blocks.3"),
    lower=lower, needs_base=needs_base,
)  # fmt: skip
