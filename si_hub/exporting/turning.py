"""(IA)³ and OFT back as what LyCORIS calls them: gains alone are its scales, rotations alone its blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from si_hub.adapter import Layer
from si_hub.converters.dense import BaseModule, as_double
from si_hub.errors import ConversionRefused
from si_hub.exporting.magnitude import leave_bias
from si_hub.storage.tensors import Tensor

if TYPE_CHECKING:
    import torch

_GAINS = {"gain", "gain_in"}
#: How far rows of a rotation may be from being of one length and at right angles: what float32 leaves.
_ROUNDING = 1e-4


def is_scale(layer: Layer) -> bool:
    """Whether a layer is gains on one side and nothing else, as (IA)³ is."""
    return len(layer.tensors.keys() & _GAINS) == 1 and layer.tensors.keys() <= _GAINS | {"bias_delta"}


def is_rotation(layer: Layer) -> bool:
    """Whether a layer is block-diagonal matrices on its outputs and nothing else, as OFT is."""
    return "turn" in layer.tensors and layer.tensors.keys() <= {"turn", "bias_delta"}


def spell_scale(key: str, layer: Layer, own: BaseModule | None, has_bias: bool, axes: int) -> dict[str, Tensor]:
    """gain - 1 and the axis that it is of, as LyCORIS has them.

    Args:
        key: the layer, for messages.
        own: the base's numbers, which only a bias is needed of.
        axes: of the base's weight.

    Raises:
        ConversionRefused: it changes a bias as well, which (IA)³ does not.
    """
    leaf = "gain" if "gain" in layer.tensors else "gain_in"
    gains = as_double(layer.tensors[leaf])
    _check_bias(key, layer, gains[:, None, None] - 1 if leaf == "gain" else None, own, has_bias)
    # Of a convolution the scales lie along the second axis, whichever they are for.
    scales = (gains - 1).float().reshape([1, -1] + [1] * (axes - 2) if axes > 2 else [-1])
    side = int(leaf == "gain_in").to_bytes(8, "little")
    return {"ia3_weight": Tensor.from_torch(scales), "on_input": Tensor.from_bytes("I64", (), side)}


def spell_rotation(key: str, layer: Layer, own: BaseModule | None, has_bias: bool, axes: int) -> dict[str, Tensor]:
    """LyCORIS's blocks B of the rotations R = (I + B - Bᵀ)(I - B + Bᵀ)⁻¹, and what rows are rescaled by.

    Raises:
        ConversionRefused: the matrices are no rotations of rows that are scaled; or a bias is changed as well.
    """
    import torch

    turn = as_double(layer.tensors["turn"])
    _check_bias(key, layer, turn, own, has_bias)
    whole = turn + torch.eye(turn.shape[-1], dtype=turn.dtype)
    lengths = whole.norm(dim=2)
    rotation = (whole / lengths.clamp(min=1e-30)[..., None]).mT
    identity = torch.eye(turn.shape[-1], dtype=turn.dtype)
    skew = torch.linalg.lstsq((rotation + identity).mT, (rotation - identity).mT).solution.mT
    again = 2 * torch.linalg.solve(identity - skew, skew, left=False) + identity
    if not float((again - rotation).abs().max()) <= _ROUNDING or not float((skew + skew.mT).abs().max()) <= _ROUNDING:
        raise ConversionRefused(
            "its matrices on the outputs are no rotations, which OFT is", key=key, hint="Choose another format"
        )
    found = {
        "oft_blocks": Tensor.from_torch(((skew - skew.mT) / 4).float()),
        "alpha": Tensor.scalar(0.0),  # no limit
    }
    if float((lengths - 1).abs().max()) > _ROUNDING:
        shape = [-1] + [1] * (axes - 1)
        found["rescale"] = Tensor.from_torch(lengths.float().reshape(shape))
    return found


def _check_bias(key: str, layer: Layer, matrices: torch.Tensor | None, own: BaseModule | None, has_bias: bool) -> None:
    if leave_bias(layer, matrices, own, has_bias) is not None:
        raise ConversionRefused(
            "changes the bias as well, which this kind of adapter does not", key=key, hint="Choose another format"
        )
