"""DoRA: W' = m · (W + ΔW) / ‖W + ΔW‖, on top of a pair, of LoHa or LoKr factors or of a difference (arXiv 2402.09353).

The norm is that of every output's row, or of every input channel, as the magnitude's shape says: LyCORIS before
version 3 and kohya's trainers have ``[1, in]``, all others ``[out, 1]``, and PEFT's convolutions ``[1, out, 1, 1]``.
Biases are left as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from si_hub.adapter import Layer
from si_hub.converters.dense import BaseModule, Difference, Values, as_double, once
from si_hub.converters.families import full, locon_tucker, loha, lokr, lora
from si_hub.converters.families.contract import Family, Lowered, Slots, SourceModule, Target, always, lower_whole
from si_hub.converters.families.shapes import along, misfit
from si_hub.converters.folding import fold_core
from si_hub.converters.naming.suffixes import spell
from si_hub.errors import LayerShapeError, NotFinite
from si_hub.storage.tensors import Tensor

if TYPE_CHECKING:
    import torch

_BENEATH = (lora.FAMILY, locon_tucker.FAMILY, loha.FAMILY, lokr.FAMILY, full.FAMILY)


def _beneath(module: SourceModule) -> Family:
    """The family of the change that the magnitude is on top of."""
    slots = module.tensors.keys() - {"magnitude"}
    found = next((family for family in _BENEATH if family.when.objection(slots) is None), None)
    if found is None:
        raise LayerShapeError(
            "a magnitude needs a change of the weight beneath it", file=module.file, key=module.names["magnitude"],
            expected="a pair, LoHa or LoKr factors, or a difference", found=", ".join(sorted(slots)) or "nothing",
        )  # fmt: skip
    return found


def check(module: SourceModule, target: Target) -> None:
    """Raise where change or magnitude, of the output or the input axis, is not for the base module.

    Raises:
        LayerShapeError: no change that a magnitude can be on top of, or tensors that contradict each other.
        BaseMismatch: they do not fit.
    """
    _beneath(module).fits(module, target)
    _axis(module, target)


def _axis(module: SourceModule, target: Target) -> int:
    """0 where the magnitude is of the outputs, 1 where it is of the inputs; BaseMismatch where it is of neither."""
    magnitude = module.tensors["magnitude"]
    shape, sizes = magnitude.shape, target.shape[:2]
    on_inputs = len(shape) > 1 and shape[0] == 1 and module.names["magnitude"].endswith(".dora_scale")
    axis = int(on_inputs and not (magnitude.count == 1 and sizes[0] == 1))
    if len(sizes) < 2 or magnitude.count != sizes[axis]:
        raise misfit(module, "magnitude", "magnitude's", " or ".join(map(str, sizes)), list(magnitude.shape), target)
    return axis


def dora_rank(module: SourceModule) -> int | None:
    """The rank of the change beneath."""
    return _beneath(module).rank_of(module)


def differ(module: SourceModule, target: Target, own: BaseModule | None) -> Difference:
    """g · (W + ΔW) - W, with g = m / ‖W + ΔW‖ along the magnitude's axis."""
    assert own is not None, "it is a function of the base's weight"
    beneath, axis = _beneath(module), _axis(module, target)
    assert beneath.differ is not None, "what can be beneath is converted"
    change = beneath.differ(module, target, own)

    def scale() -> torch.Tensor:
        weight = own.weight()
        changed = weight + change.weight() if change.weight else weight
        squares = changed.square().transpose(0, axis).flatten(1).sum(1)
        return changed * along(_divide(module, squares), axis, len(target.shape)) - weight

    return Difference(scale, change.bias)


def _divide(module: SourceModule, squares: torch.Tensor) -> torch.Tensor:
    """The gains m / ‖W + ΔW‖, float64, from the squares of the norms; 1 where there is nothing to scale."""
    import torch

    norms = squares.sqrt()
    if not bool(norms.isfinite().all()):
        raise NotFinite(
            "the norm of the base's weight with its change is no number", file=module.file,
            key=module.names["magnitude"], hint="Training or a download damaged the adapter or the base model.",
        )  # fmt: skip
    gains: torch.Tensor = as_double(module.tensors["magnitude"]).flatten() / norms
    return torch.where(norms > 0, gains, 1.0)


#: Numbers of a weight that are worked on at once.
_BLOCK = 1 << 22


def _gains(module: SourceModule, target: Target, own: BaseModule, beneath: Lowered) -> Values:
    """The gains along the magnitude's axis, float64: sums in float64 of squares of float32 numbers, block by block."""
    axis = _axis(module, target)

    def divide() -> torch.Tensor:
        import torch

        weight = own.single_weight()
        folded = fold_core(Layer(beneath.leaves, beneath.alpha))
        up, down, delta = (
            leaf.torch().float() if (leaf := folded.tensors.get(name)) else None
            for name in ("up.weight", "down.weight", "weight_delta")
        )
        scale = folded.scale
        squares = torch.zeros(target.shape[axis], dtype=torch.float64)
        rows = max(1, _BLOCK // max(1, target.count // target.shape[0]))
        for start in range(0, len(weight), rows):
            block = weight[start : start + rows]
            if up is not None and down is not None:
                block.flatten(1).addmm_(up[start : start + rows], down.flatten(1), alpha=scale)
            if delta is not None:
                block += delta[start : start + rows]
            if axis == 0:
                squares[start : start + rows] = block.flatten(1).double().square_().sum(1)
            else:
                squares += block.reshape(*block.shape[:2], -1).double().square_().sum((0, 2))
        return _divide(module, squares)

    return once(divide)


def lower(module: SourceModule, target: Target, own: BaseModule | None) -> Lowered:
    """``gain`` or ``gain_in``, and the change beneath scaled likewise; whole where a Kronecker product is beneath.

    ``gain`` acts on the bias, which DoRA leaves as it is: ``bias_delta`` takes that back, (1 - g) · b.
    """
    assert own is not None, "it is a function of the base's weight"
    axis, beneath = _axis(module, target), _beneath(module)
    lowered = lokr.lower_expanded(module, target) if beneath is lokr.FAMILY else (
        beneath.lower_module(module, target, own)
    )  # fmt: skip
    if lowered.groups > 1 or (len(target.shape) > 2 and target.shape[1] == 1):
        return lower_whole(differ(module, target, own), target)
    gains = _gains(module, target, own, Lowered(dict(lowered.leaves), lowered.alpha))
    scaled = {"up.weight", "weight_delta"} if axis == 0 else {"down.weight", "weight_delta"}
    for leaf in scaled & lowered.leaves.keys():
        lowered.leaves[leaf] = _scale(lowered.leaves[leaf], gains, axis)
    lowered.leaves["gain_in" if axis else "gain"] = Tensor.compute((target.shape[axis],), gains)
    if target.bias and axis == 0:
        trained = lowered.leaves.get("bias_delta")

        def take_back() -> torch.Tensor:
            kept = (1 - gains()) * own.bias()
            return kept + as_double(trained) if trained else kept

        lowered.leaves["bias_delta"] = Tensor.compute(target.shape[:1], take_back)
    return lowered


def _scale(tensor: Tensor, gains: Values, axis: int) -> Tensor:
    return Tensor.compute(tensor.shape, lambda: as_double(tensor) * along(gains(), axis, len(tensor.shape)))


FAMILY = Family(
    "dora", "DoRA",
    Slots.of("magnitude", may=f"down up mid alpha {loha.LOHA_FACTORS} {loha.CORES} {lokr.LOKR_FACTORS} diff diff_b"),
    check, differ,
    spell("kohya", magnitude=".dora_scale")
    | spell("peft", named=True, magnitude=".lora_magnitude_vector .lora_magnitude_vector.weight")
    | spell("ai-toolkit", magnitude=".magnitude"),
    rank=dora_rank, lower=lower, needs_base=always,
)  # fmt: skip
