"""Dense differences: ``diff`` and ``diff_b`` of full fine-tunes, ``w_norm`` and ``b_norm`` of norms. Bytes as is."""

from __future__ import annotations

import math

from si_hub.converters.checks import bias, misfit, shaped
from si_hub.converters.modules import Lowered, SourceModule, Target
from si_hub.storage.tensors import Tensor

_WEIGHTS = ("diff", "w_norm")
_BIASES = ("diff_b", "b_norm")


def lower_deltas(module: SourceModule, target: Target) -> Lowered:
    """W += diff and b += diff_b, as LyCORIS and ComfyUI apply them: no alpha.

    Raises:
        BaseMismatch: a shape differs from the base's, or the base has no bias.
    """
    leaves: dict[str, Tensor] = {}
    for slot in _WEIGHTS:
        if slot in module.tensors:
            leaf = "param_delta" if target.kind == "parameter" else "weight_delta"
            leaves[leaf] = _shaped(module, slot, target)
    for slot in _BIASES:
        if slot in module.tensors:
            leaves["bias_delta"] = bias(module, slot, target)
    return Lowered(leaves)


def _shaped(module: SourceModule, slot: str, target: Target) -> Tensor:
    """A difference in the base's shape; a 1x1 convolution may stand for a linear layer and the reverse."""
    tensor = module.tensors[slot]
    pointwise = all(math.prod(shape[2:]) == 1 and len(shape) > 1 for shape in (tensor.shape, target.shape))
    if tensor.shape != target.shape and not (pointwise and tensor.shape[:2] == target.shape[:2]):
        raise misfit(module, slot, "weight", list(target.shape), list(tensor.shape), target)
    return shaped(tensor, target.shape)
