"""DoRA back as DoRA: gains, and a pair scaled by them, are a magnitude and the pair (arXiv 2402.09353).

With W' = g ⊙ (W + ΔW) the magnitude is m = g ‖W + ΔW‖, and what was scaled by g is divided by it again.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from si_hub.adapter import Layer
from si_hub.converters.dense import BaseModule, as_double
from si_hub.converters.families.shapes import along
from si_hub.errors import ConversionRefused
from si_hub.storage.tensors import Tensor

if TYPE_CHECKING:
    import torch

#: What rounding to float32 leaves of a bias that is taken back.
_ROUNDING = 1e-5


def is_magnitude(layer: Layer) -> bool:
    """Whether a layer is a pair of one branch with gains on one side, as DoRA is."""
    gains = layer.tensors.keys() & {"gain", "gain_in"}
    others = layer.tensors.keys() - {"down.weight", "up.weight", "bias_delta", "gain", "gain_in"}
    return layer.rank > 0 and len(gains) == 1 and not others and layer.groups == 1


def raise_magnitude(key: str, layer: Layer, own: BaseModule, has_bias: bool) -> tuple[Layer, Tensor]:
    """The pair without its gains, and the magnitude, ``[out, 1, …]`` or ``[1, in, …]``.

    Args:
        key: the layer, for messages.
        own: the base's numbers.

    Raises:
        ConversionRefused: a gain of zero, which nothing is divided by.
    """
    axis, leaf = (0, "gain") if "gain" in layer.tensors else (1, "gain_in")
    gains = as_double(layer.tensors[leaf])
    if bool((gains == 0).any()):
        raise ConversionRefused("a gain of 0 has no magnitude", key=key, hint="Choose another format")
    weight = own.weight()
    up, down = as_double(layer.tensors["up.weight"]), as_double(layer.tensors["down.weight"])
    if axis == 0:
        up = up / gains[:, None]
    else:
        down = down / along(gains, 1, down.ndim)
    change = (layer.scale * up @ down.flatten(1)).reshape(weight.shape)
    norms = (weight + change).transpose(0, axis).flatten(1).norm(dim=1)
    shape = [1] * weight.ndim
    shape[axis] = -1
    scaled, factor = ("up.weight", up) if axis == 0 else ("down.weight", down)
    tensors = {name: tensor for name, tensor in layer.tensors.items() if name not in {leaf, "bias_delta"}}
    tensors[scaled] = Tensor.from_torch(factor.float())
    rest = leave_bias(layer, gains[:, None, None] - 1 if axis == 0 else None, own, has_bias)
    if rest is not None:
        tensors["bias_delta"] = Tensor.from_torch(rest.float())
    return replace(layer, tensors=tensors), Tensor.from_torch((gains * norms).float().reshape(shape))


def measure_magnitude(layer: Layer, own: BaseModule) -> Tensor:
    """The magnitudes ``[out, 1, …]`` that change nothing of a pair: ‖W + ΔW‖ of every output."""
    weight = own.weight()
    up, down = as_double(layer.tensors["up.weight"]), as_double(layer.tensors["down.weight"])
    norms = (weight + (layer.scale * up @ down.flatten(1)).reshape(weight.shape)).flatten(1).norm(dim=1)
    return Tensor.from_torch(along(norms, 0, weight.ndim).float())


def leave_bias(
    layer: Layer, matrices: torch.Tensor | None, own: BaseModule | None, has_bias: bool
) -> torch.Tensor | None:
    """What ``bias_delta`` has besides taking back what gains or turns do to the bias; none where that is rounding.

    Args:
        matrices: what the bias is multiplied by, less the identity, ``[blocks, size, size]``; none on the inputs.
        own: the base's numbers.
    """
    held = layer.tensors.get("bias_delta")
    if matrices is None or not has_bias:
        return None if held is None else as_double(held)
    assert own is not None, "a bias is the base's"
    bias = own.bias()
    rest = (matrices @ bias.reshape(len(matrices), -1, 1)).flatten()
    rest = rest + as_double(held) if held is not None else rest
    most = max(float(bias.abs().max()), math.ulp(1.0))
    return None if float(rest.abs().max()) <= _ROUNDING * most else rest
