"""A layer as the tensors of another format: exact, or refused with what stands in the way."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping

from si_hub.adapter import Layer
from si_hub.errors import ConversionRefused
from si_hub.exporting.formats import FileFormat
from si_hub.exporting.joining import as_single
from si_hub.storage.tensors import Tensor
from si_hub.words import option

#: Whose a leaf is, for people.
_KINDS = {
    "kron": ", LoKr's Kronecker product", "gain": ", DoRA's or (IA)³'s scale of outputs",
    "gain_in": ", DoRA's or (IA)³'s scale of inputs", "turn": ", OFT's rotation", "turn_in": ", OFT's rotation",
    "weight_delta": ", a dense difference", "bias_delta": ", a difference of its bias",
    "param_delta": ", a difference of a parameter",
}  # fmt: skip


def spell_layer(path: str, layer: Layer, kind: str, axes: int, target: FileFormat) -> dict[str, Tensor]:
    """The tensors of one module by slot, alpha among them where the format keeps it so.

    Args:
        path: of the module, for messages.
        layer: of one branch.
        kind: of the base module.
        axes: of the base module's weight: an ``up`` of a convolution has a kernel of ones.

    Raises:
        ConversionRefused: the format has no place for a leaf.
    """
    slots = target.slots_of(layer, kind)
    found: dict[str, Tensor] = {}
    # A Kronecker product is what there is no place for, not its factors.
    for leaf, tensor in sorted(layer.tensors.items(), key=lambda item: item[0] != "kron"):
        slot = slots.get(leaf)
        if slot is None or slot not in target.suffixes:
            raise ConversionRefused(
                f"{target.title} has no place for a layer's {leaf}{_KINDS.get(leaf, '')}", key=path,
                hint=f"Choose another format, or make pairs of what it has no place for with {option('rank')} or "
                f"{option('tolerance')}",
            )  # fmt: skip
        found[slot] = tensor
    if "up" in found:
        up = found["up"]
        found["up"] = up.reshape(*up.shape[:2], *(1 for _ in range(axes - 2)))
    if "mid" in found:
        down = found["down"]
        found["down"] = down.reshape(*down.shape[:2], *(1 for _ in range(axes - 2)))
    if "lokr_w2_b" in found:
        # The right factor's pair is multiplied as two matrices there, its kernel laid flat.
        down = found["lokr_w2_b"]
        found["lokr_w2_b"] = down.reshape(down.shape[0], math.prod(down.shape[1:]))
    if not layer.rank:
        # Of two whole factors it says nothing, but LyCORIS reads no LoKr without it.
        return found | ({"alpha": Tensor.scalar(1.0)} if "lokr_w1" in found else {})
    if target.alpha == "tensor":
        found["alpha"] = spell_alpha(layer)
    elif target.alpha == "folded" and layer.scale != 1:
        found["up"] = fold_scale(found["up"], layer.scale)
    return found


def spell_alpha(layer: Layer) -> Tensor:
    """alpha as kohya's trainer writes it, a scalar; float64 where float32 does not hold it."""
    alpha = float(layer.rank if layer.alpha is None else layer.alpha)
    if struct.unpack("<f", struct.pack("<f", alpha))[0] == alpha:
        return Tensor.scalar(alpha)
    return Tensor.from_bytes("F64", (), struct.pack("<d", alpha))


def folds_exactly(layer: Layer) -> bool:
    """Whether a scale only changes exponents: a power of two, which no rounding follows."""
    return layer.scale > 0 and math.frexp(layer.scale)[0] == 0.5


def fold_scale(up: Tensor, scale: float) -> Tensor:
    """``up`` times a power of two, in its own dtype wherever no number leaves its range; else float32."""
    if up.dtype == "F32":
        return as_single(up, scale)
    scaled = up.torch().double() * scale
    narrow = scaled.to(up.torch().dtype)
    return Tensor.from_torch(narrow) if bool((narrow.double() == scaled).all()) else as_single(up, scale)


def unfold_scale(bias: Tensor, scale: float) -> Tensor:
    """What becomes ``bias`` when it is scaled, in its own dtype where nothing is rounded there; else float32."""
    divided = bias.torch().double() / scale
    narrow = divided.to(bias.torch().dtype)
    return Tensor.from_torch(narrow if bool((narrow.double() == divided).all()) else divided.float())


def name_tensors(stem: str, slots: Mapping[str, Tensor], suffixes: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors by their names."""
    return {f"{stem}{suffixes[slot]}": tensor for slot, tensor in slots.items()}
